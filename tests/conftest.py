from dreamerzero.training.devices import cache_compilations

cache_compilations()  # compiling is most of what the tests do
