"""How good are the players that `muzero_learning.py` trained? Games won, drawn and lost.

Every seed against every opponent that plays its game, a hundred games on each side; and the Elo
ratings that its past players have among each other. Of runs that are not in `runs/learning/` the
results stay.

    python benchmarks/board_games.py
"""

from __future__ import annotations

import json
import subprocess
import sys

import learning
from common import arguments, report

from dreamerzero.training.games import SIDES

GAMES = 100
RUNS = {
    "muzero-TicTacToe-pgx": ("perfect", "search", "random"),
    "alphazero-TicTacToe-pgx": ("perfect", "search", "random"),
    "muzero-ConnectFour-pgx": ("search", "random"),
}


def main():
    arguments()
    tables = learning.recorded("board_games", "tables")
    ladders = learning.recorded("board_games", "ladders")
    for run, opponents in RUNS.items():
        if (learning.RUNS / run).exists():
            tables[run] = {opponent: played(run, opponent) for opponent in opponents}
            ladders[run] = played(run, "past")["ladder"]
    if not tables:
        raise SystemExit(f"None of {', '.join(RUNS)} is in {learning.RUNS}: train one there first.")
    rows = [row(run, opponent, table) for run in tables for opponent, table in tables[run].items()]
    report("board_games", rows, tables=tables, ladders=ladders)


def played(run: str, opponent: str) -> dict:
    command = [sys.executable, "-m", "dreamerzero", "eval", str(learning.RUNS / run), "--json"]
    command += ["--opponent", opponent, "--episodes", str(GAMES)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def row(run: str, opponent: str, table: dict) -> dict:
    """All seeds together."""
    sides = {side: [sum(seeds) for seeds in zip(*table[side])] for side in SIDES}
    won, drawn, lost = (sum(both) for both in zip(*sides.values()))
    return {"run": run, "against": opponent, "won": won, "drawn": drawn, "lost": lost, **sides}


if __name__ == "__main__":
    main()
