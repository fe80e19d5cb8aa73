"""Faults planted in the readers of users' files, each of which their fuzz tests must find.

`python -m tests.harness.planted_faults [WORD ...]` plants one after the other (whose title holds a word) in a copy
of the tree, runs the reader's fuzz test there, and prints what found it; its exit code is the number of survivors.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("harness", "engines", "tests/harness", "tests/__init__.py", "tests/conftest.py")
LINKED = ("scenarios", "tests/left_out.py", "tests/quick.py", "pyproject.toml")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `old` stands once in `file`, `new` is what an author might have written."""

    file: str
    old: str
    new: str

    @property
    def title(self) -> str:
        """'file: old -> new', in short."""
        return f"{self.file.rpartition('/')[2]}: {self.old.strip()[:60]} -> {self.new.strip()[:60] or 'nothing'}"


TRACE, COLUMNS = "harness/load/schedule/trace.py", "harness/load/schedule/trace_columns.py"
ROWS, TIMES = "harness/load/user_rows.py", "harness/load/schedule/request_times.py"
PROMPTS, YAML = "harness/load/prompts/prompts_file.py", "harness/scenario/yaml_nodes.py"
LOAD, PROBLEMS = "harness/scenario/load.py", "harness/scenario/problems.py"
FIELDS, KINDS, REQUEST = "harness/scenario/fields.py", "harness/scenario/load_kinds.py", "harness/scenario/request.py"
JAVA, READ = "engines/serving_properties/java_text.py", "engines/serving_properties/read.py"
RESOLVE, SERVED = "harness/scenario/resolve.py", "harness/scenario/served_reference.py"
LINT, PLACE = "harness/properties/lint/values.py", "harness/properties/lint/place.py"
COMBINED, ENVIRONMENT = "harness/properties/lint/combinations.py", "harness/properties/environment_variables.py"
PAGE = "harness/measure/engine_metrics/read.py"
NODES = "harness/imported/nodes.py"

FAULTS = (
    Fault(TRACE, "return number if math.isfinite(number) else None", "return number"),
    Fault(TRACE, "not 0 <= number <= MAX_LENGTH", "number < 0"),
    Fault(TRACE, "if 0 not in (row.input_length, row.output_length)", "if True"),
    Fault(
        TRACE,
        "except (ValueError, OverflowError):\n        return None\n    return number",
        "except ValueError:\n        return None\n    return number",
    ),
    Fault(TRACE, "            if not isinstance(fields, dict):\n", "            if fields is None:\n"),
    Fault(ROWS, "        except csv.Error as error:", "        except KeyError as error:"),
    Fault(TRACE, "_check_order(path, kept, rows)", ""),
    Fault(COLUMNS, "if odd := [name for name in names if not name.isprintable()]:", "if odd := []:"),
    Fault(COLUMNS, 'if "time" not in roles:', 'if "tine" in roles:'),
    Fault(ROWS, 'return data.decode("utf-8-sig")', 'return data.decode("latin-1")'),
    Fault(
        ROWS,
        "        return json.loads(line, object_pairs_hook=_once)\n    except (ValueError, RecursionError)",
        "        return json.loads(line, object_pairs_hook=_once)\n    except ValueError",
    ),
    Fault(TIMES, "if last_s >= UNBOUNDED / NS_PER_S:", "if False:"),
    Fault(PROMPTS, "if prompt.prompt_id in seen:", "if False:"),
    Fault(PROMPTS, "if not isinstance(text, str) or not text.strip():", "if not isinstance(text, str):"),
    Fault(PROMPTS, "if reference is not None and not isinstance(reference, str):", "if False:"),
    Fault(PROMPTS, "or not prompt_id or not task:", ":"),
    Fault(
        PROMPTS, 'if half := next((char for char in value if "\\ud800" <= char <= "\\udfff"), ""):', 'if half := "":'
    ),
    Fault(
        PROMPTS,
        "number, offset = divmod(place, len(self._prompts))",
        "number, offset = divmod(place + 1, len(self._prompts))",
    ),
    Fault(PROMPTS, "shuffled.insert(0, longest)", "shuffled.append(longest)"),
    Fault(PROMPTS, "got {text!r:.80}", "got {text!r}"),
    Fault(YAML, "if len(document.lines) > MOST_VALUES:", "if False:"),
    Fault(YAML, "except RecursionError:", "except KeyError:"),
    Fault(YAML, "if not isinstance(key_node, ScalarNode):", "if False:"),
    Fault(YAML, 'style = None if scalar(data) == data else "\'"', "style = None"),
    Fault(YAML, "if any(mark in data for mark in _FOLDED):", "if False:"),
    Fault(YAML, "except yaml.reader.ReaderError as error:", "except KeyError as error:"),
    Fault(LOAD, "if isinstance(part, int) and part < len(items):", "if isinstance(part, int):"),
    Fault(LOAD, "if not isinstance(below, dict | list):", "if False:"),
    Fault(
        LOAD,
        "        if _holds(raw, part):\n            raw = raw[part]",
        "        if True:\n            raw = raw[part]",
    ),
    Fault(LOAD, 'if location[:1] != ("space",) or len(location) == 1:', 'if location[:1] != ("space",):'),
    Fault(LOAD, "if part in model.model_fields:", "if True:"),
    Fault(PROBLEMS, "    except UnicodeDecodeError as error:", "    except KeyError as error:"),
    Fault(PROBLEMS, "next((lines[prefix] for prefix in prefixes if prefix in lines), 1)", "lines[tuple(path)]"),
    Fault(FIELDS, "if len(shown) <= LONGEST_SHOWN else", "if True else"),
    Fault(FIELDS, "if not isinstance(word, str) or word in words:", "if word in words:"),
    Fault(FIELDS, "if isinstance(number, float) and number.is_integer()", "if isinstance(number, float)"),
    Fault(KINDS, "        except (ValueError, RecursionError) as error:", "        except ValueError as error:"),
    Fault(KINDS, "if self.from_rps == self.to_rps == 0:", "if False:"),
    Fault(REQUEST, "json.dumps(value, allow_nan=False)", "pass"),
    Fault(RESOLVE, "if name in block and block[name] == unset:", "if name in block:"),
    Fault(RESOLVE, 'if not block["incumbent"]:', "if True:"),
    Fault(RESOLVE, 'if fields["model"] and fields["model"]["bundled"] is None:', 'if fields["model"]:'),
    Fault(RESOLVE, "return Path(os.path.normpath(folder / written))", "return Path(written)"),
    Fault(RESOLVE, "seed=source.seed or 0", "seed=0"),
    Fault(RESOLVE, 'self.model.kind != "gguf" or self.reference_folder is not None', 'self.model.kind != "gguf"'),
    Fault(RESOLVE, "locustfile_sha256=sha256, digest=digest", "locustfile_sha256=sha256"),
    Fault(
        RESOLVE, "except (AttributeError, KeyError, TypeError) as error:", "except (AttributeError, KeyError) as error:"
    ),
    Fault(
        RESOLVE,
        "except (AttributeError, KeyError, TypeError) as error:",
        "except (AttributeError, TypeError) as error:",
    ),
    Fault(RESOLVE, "except (AttributeError, KeyError, TypeError) as error:", "except (KeyError, TypeError) as error:"),
    Fault(RESOLVE, 'if first["loc"][:1] == ("scenario",) else', "if True else"),
    Fault(SERVED, "if value is not None", "if True"),
    Fault(SERVED, "{self.model_name} at {self.url}", "{self.model_name}"),
    Fault(JAVA, 'or any(digit not in "0123456789abcdefABCDEF" for digit in digits)', ""),
    Fault(JAVA, 'if char == "\\\\":\n        return "\\\\\\\\"', 'if False:\n        return ""'),
    Fault(
        JAVA,
        'return escaped + "\\\\u0020" * (len(value) - len(body))',
        'return escaped + " " * (len(value) - len(body))',
    ),
    Fault(JAVA, 'is_escaped = char == "\\\\" and not is_escaped', 'is_escaped = char == "\\\\"'),
    Fault(READ, "if number.isascii() and number.isdigit():", "if number.isdigit():"),
    Fault(
        READ,
        '        except ValueError:\n            raise SpecInvalid(f"serving.properties: {key}={text!r}',
        '        except KeyError:\n            raise SpecInvalid(f"serving.properties: {key}={text!r}',
    ),
    Fault(READ, "        if value < low:", "        if False:"),
    Fault(READ, "if max_workers < min_workers:", "if False:"),
    Fault(READ, 'given["rolling_batch"] = "disable"', "pass"),
    Fault(
        LINT,
        "        json.loads(value)\n    except (ValueError, RecursionError)",
        "        json.loads(value)\n    except ValueError",
    ),
    Fault(
        LINT, "        number = int(value)\n    except ValueError:", "        number = int(value)\n    except KeyError:"
    ),
    Fault(PLACE, "(?:gpu)?(\\d{1,9})", "(?:gpu)?(\\d+)"),
    Fault(PLACE, "\\d{1,18}", "\\d+"),
    Fault(COMBINED, "for d in range(1, min(heads, 64) + 1)", "for d in range(1, heads + 1)"),
    Fault(
        COMBINED,
        "        return int(given.values.get(key, default))\n    except ValueError:",
        "        return int(given.values.get(key, default))\n    except KeyError:",
    ),
    Fault(COMBINED, "heads is not None and degree > 1", "heads is not None"),
    Fault(ENVIRONMENT, "        except (ValueError, RecursionError) as error:", "        except ValueError as error:"),
    Fault(ENVIRONMENT, "            if not isinstance(value, str):", "            if value is None:"),
    Fault(ENVIRONMENT, "got {value!r:.80}", "got {value!r}"),
    Fault(ENVIRONMENT, '    if key in ("option.engine", "option.entrypoint"):', "    if False:"),
    Fault(ENVIRONMENT, "if len(variables) > MAX_ENTRIES:", "if False:"),
    Fault(ENVIRONMENT, "if _SNAKE.fullmatch(name):", "if True:"),
    Fault(PAGE, '.decode("utf-8", "replace")', '.decode("utf-8")'),
    Fault(PAGE, "    except ValueError:\n        return []", "    except KeyError:\n        return []"),
    Fault(PAGE, "if name in names and math.isfinite(value):", "if name in names:"),
    Fault(
        PAGE, "for meaning, value in values.items() if math.isfinite(value)}", "for meaning, value in values.items()}"
    ),
    Fault(NODES, "if not is_number or value != value or not", "if value != value or not"),
    Fault(NODES, "        if not isinstance(self.value, dict) or name not in self.value:\n", "        if False:\n"),
    Fault(NODES, "        if not isinstance(self.value, list):\n", "        if self.value is None:\n"),
    Fault(ENVIRONMENT, "        if not sign or not key.strip():", "        if not sign:"),
)


def fuzz_test_of(file: str) -> str:
    """The fuzz test of the reader in `file`."""
    room = file.split("/")[1] if file.startswith("harness/") else "properties"
    deeper = {"load": "load/schedule", "measure": "measure/engine_metrics"}
    return f"tests/harness/{deeper.get(room, room)}/test_fuzz.py"


def main(words: list[str]) -> int:
    """Plant, run, print; how many survived."""
    survivors = 0
    chosen = [fault for fault in FAULTS if not words or any(word in fault.title for word in words)]
    with tempfile.TemporaryDirectory(prefix="dyno-planted-") as folder:
        _copy_tree(Path(folder))
        for fault in chosen:
            found = next(_found_by(Path(folder), fault), "")
            survivors += not found
            print(f"{found or 'SURVIVED':60} {fault.title}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} planted faults found")
    return survivors


def _copy_tree(folder: Path) -> None:
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so", "node_modules"))
        else:
            shutil.copy(source, target)
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)


def _found_by(folder: Path, fault: Fault) -> Iterator[str]:
    """The names of the tests that fail with the fault planted, or 'no end' where it hangs."""
    path = folder / fault.file
    right = path.read_text(encoding="utf-8")
    path.write_text(right.replace(fault.old, fault.new), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        fuzz_test_of(fault.file),
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder), "DYNO_FUZZ_SHRINK": "0"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        yield "no end"
        return
    finally:
        path.write_text(right, encoding="utf-8")
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    yield from (line.partition("::")[2].partition(" - ")[0] or line for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
