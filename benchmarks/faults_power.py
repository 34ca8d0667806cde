"""What a power cut leaves of files that were not flushed: of all that a program's journal says, at most that is lost.

A file's content may be missing from where it was last flushed; a name may be missing from a folder that was not flushed
since. What replaced another file without a flush may be the old one again, which is not tried here.
"""

import random
import shutil
from pathlib import Path


def lose_unflushed(journal: Path, rng: random.Random) -> list[str]:
    """Damages what was not flushed, after the program was killed; the journal begins anew.

    Args:
        journal: written by faults_program.py.
        rng: decides what is lost and how.

    Returns:
        What was lost, for people.
    """
    flushed: dict[str, int] = {}
    names: set[str] = set()
    for line in journal.read_text(encoding="utf-8").splitlines():
        kind, path, *more = line.split("\t")
        if kind == "write":
            if path not in flushed:
                names.add(path)
            flushed.setdefault(path, 0)
        elif kind == "sync":
            if path in flushed:
                flushed[path] = int(more[0])
            names -= {name for name in names if str(Path(name).parent) == path}
        elif kind == "rename":
            target, over = more
            for name in [name for name in flushed if name == path or name.startswith(f"{path}/")]:
                flushed[target + name.removeprefix(path)] = flushed.pop(name)
            names.discard(path)
            if over == "new":
                names.add(target)
        elif kind == "mkdir":
            names.add(path)
        else:
            flushed = {name: size for name, size in flushed.items() if name != path and not name.startswith(f"{path}/")}
            names = {name for name in names if name != path and not name.startswith(f"{path}/")}
    journal.write_text("", encoding="utf-8")
    return [*_lose_names(names, rng), *_lose_content(flushed, rng)]


def _lose_names(names: set[str], rng: random.Random) -> list[str]:
    lost = []
    for name in sorted(names):
        path = Path(name)
        if not path.exists() or rng.random() < 0.5:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        lost.append(f"{name} is gone")
    return lost


def _lose_content(flushed: dict[str, int], rng: random.Random) -> list[str]:
    lost = []
    for name, kept in sorted(flushed.items()):
        path = Path(name)
        if not path.is_file() or path.stat().st_size <= kept or rng.random() < 0.5:
            continue
        size = path.stat().st_size
        left = rng.choice((kept, rng.randint(kept, size), size))
        with path.open("r+b") as file:
            file.truncate(left)
            if left == size:  # its length was noted, its bytes were not
                file.seek(kept)
                file.write(bytes(size - kept))
        lost.append(f"{name}: {size - left} bytes cut, {left - kept} in doubt")
    return lost
