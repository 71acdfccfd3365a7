"""The steps of the study: each file of this folder is one, and nothing else has to know it.

A step is a module with these names:

NAME, ORDER     its name (of the scripts and the results), and its place among the steps
NEEDS           the steps whose results it reads
FILES           its results' folder and files, for the help of its scripts
SIZES           the flag that takes its training sizes: training_size, or training_sizes for several
parse_args(task, doc, argv, ...)   a script's call, see `common.flags.Call`
run(call)       make the result, or show the finished one
calls(sizes, controls)   how the study runs it for a model: [(sizes, flags)], a pair for each call
cells(begun)    the cells of a call's results, if they are not one for each of its sizes
draw(folder, task)       the figures of a result, from its CSV alone
read(result, task)       further metrics of a result for the report, from its CSV, if there are any
sections(grid)           what the report shows of it, see `common.report`
link_measures(grid)      {measure: {(model, size): value}} that the score is correlated with, if any
"""

import importlib
import pkgutil

_modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
STEPS = {module.NAME: module for module in sorted(_modules, key=lambda module: module.ORDER)}
