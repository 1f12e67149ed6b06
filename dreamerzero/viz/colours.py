"""Colours that stay apart for colour-blind readers (Okabe & Ito 2008)."""

BLACK = "#000000"
PAPER = "#ffffff"
GREY = "#bbbbbb"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
