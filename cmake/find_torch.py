"""Print the folder of torch; an empty line where there is none. torch is not imported: that takes seconds."""

import sysconfig
from importlib.machinery import PathFinder

# The interpreter's own folders come last: pip hides them from a build in isolation, although that is the
# environment into which the package goes.
paths = [None, [sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]]
specs = [PathFinder.find_spec("torch", path) for path in paths]
print(next((spec.submodule_search_locations[0] for spec in specs if spec is not None and spec.origin), ""))
