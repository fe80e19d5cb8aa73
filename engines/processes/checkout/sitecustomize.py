"""Start-up hook (sitecustomize) that makes a child process import `engines` from another checkout.

An editable install leaves an import hook that leads `engines` back to the checkout it was made from, before PYTHONPATH
is asked: the other checkout would be this one. Hooks that do so are taken out of the process.
"""

import os
import sys


def leads_elsewhere(finder: object, root: str) -> bool:
    """Whether an import hook finds an `engines` outside `root`."""
    if "editable" not in str(getattr(type(finder), "__module__", "")):
        return False
    find_spec = getattr(finder, "find_spec", None)
    spec = find_spec("engines", None, None) if find_spec is not None else None
    return spec is not None and not str(spec.origin).startswith(os.path.join(root, ""))


_root = os.environ.get("DYNO_SOURCE_ROOT", "")
if _root:
    sys.meta_path[:] = [finder for finder in sys.meta_path if not leads_elsewhere(finder, _root)]
