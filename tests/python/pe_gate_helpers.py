"""pe_gate in tests: how it is called, and its reports beside those of the gate in Python."""

import os
import subprocess
from pathlib import Path

import native_build
import PIL.Image


def build_pe_gate() -> Path:
    """The program, built; skips where it cannot be."""
    return native_build.build("pe_gate", needs="PE_GATE_REASON") / "csrc" / "app" / "pe_gate"


def caller(program):
    """A function that runs pe_gate with arguments and environment: exit code, standard output and error."""

    def call(*arguments, **environment):
        done = subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env={
                **os.environ,
                "PE_RUNTIME_ONNXRUNTIME": str(native_build.onnxruntime_library()),
                **environment,
            },
        )
        assert done.returncode in (0, 1, 2), done.stderr
        return done.returncode, done.stdout, done.stderr

    return call


def reports(tmp_path, run_command, pe_gate, *arguments):
    """What both gates do with the same arguments: code, output, errors; and their JSON and CSV reports."""
    runs, texts = [], []
    for name, gate in (("python", lambda *a: run_command("gate", *a)), ("native", pe_gate)):
        files = [tmp_path / f"{name}.json", tmp_path / f"{name}.csv"]
        runs.append(gate(*arguments, "--json", files[0], "--csv", files[1]))
        texts.append([file.read_text() for file in files])
    return runs, texts


def shortened(report):
    """The report with the part of each error that is not a decoder's own words."""
    for result in report["results"]:
        if result["error"] is not None:
            result["error"] = result["error"].partition(": ")[0]
    return report


def write_image(path, level, size=(16, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, (level, level // 2, 255 - level)).save(path)
    return path
