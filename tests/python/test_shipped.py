"""What is shipped: exported symbols and hardening of the package's libraries, licences, pinned packages."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import native_build

import pe_runtime

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(pe_runtime.__file__).parent
#: Of each library of the package, what it exports.
EXPORTS = {
    "libpe_runtime_torch.so": "",
    "libpe_runtime_torch_cuda.so": "",
    "libpe_runtime_ort.so": "RegisterCustomOps",
    f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}": "PyInit__kernels",
}

linux = pytest.mark.skipif(sys.platform != "linux", reason="exported symbols and segments are ELF's")


def check(script: str, **definitions: object) -> subprocess.CompletedProcess[str]:
    options = [f"-D{name}={value}" for name, value in definitions.items()]
    path = ROOT / "tests" / "cpp" / script
    return subprocess.run([native_build.tool("cmake"), *options, "-P", path], capture_output=True, text=True)


@linux
@pytest.mark.parametrize("name", EXPORTS)
def test_library_exports_what_it_should_and_is_hardened(name):
    library = PACKAGE / name
    if not library.exists():
        assert name not in ("libpe_runtime_torch.so", f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}")
        pytest.skip("not built: no CUDA toolkit, or no headers of ONNX Runtime")
    done = check("check_exports.cmake", NM=native_build.tool("nm"), LIBRARY=library, EXPECTED=EXPORTS[name])
    assert done.returncode == 0, done.stderr
    done = check("check_hardening.cmake", READELF=native_build.tool("readelf"), FILE=library)
    assert done.returncode == 0, done.stderr


@linux
def test_checks_find_a_library_that_is_neither(tmp_path):
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    source, library = tmp_path / "plain.cpp", tmp_path / "plain.so"
    source.write_text("int exported() { return 1; }\n")
    options = ("-shared", "-fPIC", "-fno-stack-protector", "-Wl,-z,norelro,-z,lazy,-z,execstack")
    subprocess.run([compiler, *options, source, "-o", library], check=True)
    done = check(
        "check_exports.cmake", NM=native_build.tool("nm"), LIBRARY=library, EXPECTED="PyInit__kernels"
    )
    assert done.returncode != 0
    assert "expected the symbols PyInit__kernels, got _Z8exportedv" in re.sub(r"\s+", " ", done.stderr)
    done = check("check_hardening.cmake", READELF=native_build.tool("readelf"), FILE=library)
    assert done.returncode != 0
    for missing in (
        "-z relro",
        "a stack that cannot be run",
        "-z now",
        "-fstack-protector-strong",
        "-fcf-protection",
    ):
        assert missing in re.sub(r"\s+", " ", done.stderr)


def test_notice_names_what_is_compiled_in():
    notice = (ROOT / "NOTICE").read_text()
    for project in ("pybind11", "PyTorch", "ONNX Runtime", "nlohmann_json", "CLI11", "CUDA runtime"):
        assert project in notice
    # Each part ends with the last words of its licence.
    assert notice.count("POSSIBILITY OF SUCH DAMAGE") + notice.count("DEALINGS IN THE SOFTWARE") == 5


def test_pinned_packages_have_hashes_and_name_no_host():
    text = (ROOT / "requirements" / "dev.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    requirements = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", text, flags=re.M)).splitlines()
    assert len(requirements) > 100
    for requirement in requirements:
        assert re.match(r"[a-z0-9._-]+(\[[a-z0-9, ]+\])?==\S+", requirement), requirement
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", requirement), requirement
    script = (ROOT / "scripts" / "make_environment.sh").read_text()
    assert "--require-hashes" in script
