"""Read damaged files, each in a process of its own: ``mutant_run.py FIRST STOP``.

Mutant k is always the same file.  A process that has imported everything forks for each; the child
may not use more memory than a cap, nor more than five seconds.  The summary is one line of JSON;
``--keep DIRECTORY`` keeps the mutants of the findings.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
from byte_mutations import BYTE_MUTATIONS
from content_mutations import CONTENT_MUTATIONS
from examine import examine
from object_headers import seal
from sound_files import Sound, make_sound_files

__all__ = ["main"]

SECONDS = 5
CAP = 128 * 2**20  # bytes of address space that reading may take
_SEED = 20
_SOUND = 6  # files; mutant k is of file k % 6, and consecutive sixes are of different mutations
_MUTATIONS = (*BYTE_MUTATIONS, *CONTENT_MUTATIONS)
_ZEROING = (
    "zero_range", "copy_range", "swap_ranges", "remove_range", "repeat_range", "relink",
)  # fmt: skip
_VERDICTS = ("accepted", "partly", "refused", "found")
_ACCEPTED, _PARTLY, _REFUSED, _FOUND = range(4)


def damage(k: int, sound: Sound, path: Path) -> str:
    """Write mutant k of a sound file to ``path``; return the name of the mutation."""
    rng = np.random.default_rng([_SEED, k])
    mutate = _MUTATIONS[k // _SOUND % len(_MUTATIONS)]
    if mutate in BYTE_MUTATIONS:
        data = mutate(rng, sound)
        if sound.blocks and rng.random() < 0.7 and len(data) == len(sound.data):
            seal(data, sound.blocks)
        path.write_bytes(data)
    else:
        path.write_bytes(sound.data)
        with h5py.File(path, "r+") as file:
            mutate(rng, file)
    return mutate.__name__


def _judge(k: int, sound: Sound, expected: Mapping, path: Path) -> int:
    """In the child: the verdict on one mutant; what is found goes to stderr."""
    name = "?"
    try:
        name = damage(k, sound, path)
        signal.alarm(SECONDS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + CAP, used + CAP))
        reading = examine(
            sound.kind,
            path,
            expected,
            zeros=name in _ZEROING,
            sealed=name == "poison_and_seal",
        )
    except BaseException:
        print(f"mutant {k} of {sound.name}, {name}:", file=sys.stderr)
        traceback.print_exc()
        return _FOUND
    if not reading.values:
        return _REFUSED
    return _PARTLY if reading.refused else _ACCEPTED


def _in_child(work: Callable[[], int]) -> str:
    """What became of a fork that did some work: a verdict, or the signal that killed it."""
    sys.stderr.flush()
    process = os.fork()
    if not process:
        os._exit(work())
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"took over {SECONDS} s" if name == "SIGALRM" else f"killed by {name}"
    return _VERDICTS[os.WEXITSTATUS(status)]


def main() -> None:
    """Judge a range of mutants, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=int)
    parser.add_argument("stop", type=int)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    verdicts: dict[str, Counter] = {}
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        directory, path = Path(folder), Path(folder) / "mutant.h5"
        sounds = make_sound_files(directory)
        assert len(sounds) == _SOUND
        expected = []
        for sound in sounds:
            reading = examine(sound.kind, directory / f"{sound.name}.h5")
            assert reading.values and not reading.refused, sound.name
            expected.append(reading.values)
        gc.freeze()
        for k in range(options.first, options.stop):
            sound, before = sounds[k % _SOUND], expected[k % _SOUND]
            verdict = _in_child(lambda k=k, s=sound, b=before: _judge(k, s, b, path))
            verdicts.setdefault(sound.kind, Counter())[verdict] += 1
            if verdict not in _VERDICTS[:_FOUND]:
                findings.append([k, sound.name, verdict])
                if options.keep and path.exists():
                    shutil.copy(path, options.keep / f"{k}-{sound.name}.h5")
    print(json.dumps({"verdicts": verdicts, "findings": findings}))


if __name__ == "__main__":
    main()
