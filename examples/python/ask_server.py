"""Asks a server for the score of two image files; the server is MLServer or Triton, the code is the same.

    pip install 'tritonclient[http]' pillow
    python ask_server.py localhost:8080 metric reference.png candidate.png --map difference.png

The server is one that `pe-runtime export mlserver` or `pe-runtime export triton` wrote the folder for. Exits
with 0, with 1 where the verdict is fail, or with 2 where there is no answer.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import tritonclient.http as http
from PIL import Image
from tritonclient.utils import InferenceServerException


def read_image(path: Path, kind: str) -> np.ndarray:
    """An image as the metric takes it: UINT8 (1, H, W, 3), or FP32 (1, 3, H, W) in [0, 1]."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))[None]
    return pixels if kind == "UINT8" else np.float32(pixels.transpose(0, 3, 1, 2)) / 255


def ask(
    client: http.InferenceServerClient, model: str, images: dict[str, Path], wanted: list[str]
) -> dict[str, np.ndarray]:
    """The outputs that are wanted, as far as the metric has them."""
    about = client.get_model_metadata(model)
    # Triton takes tensors as bytes; a server without that extension of the protocol takes JSON, in which an
    # image is several times as large.
    binary = "binary_tensor_data" in client.get_server_metadata()["extensions"]
    kinds = {tensor["name"]: tensor["datatype"] for tensor in about["inputs"]}
    inputs = []
    for name, path in images.items():
        pixels = read_image(path, kinds[name])
        inputs.append(http.InferInput(name, pixels.shape, kinds[name]))
        inputs[-1].set_data_from_numpy(pixels, binary_data=binary)
    names = [tensor["name"] for tensor in about["outputs"] if tensor["name"] in wanted]
    outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client.infer(model, inputs, outputs=outputs)
    return {name: result.as_numpy(name) for name in names}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Ask a server for the score of two images.")
    parser.add_argument("server", help="HOST:PORT of its HTTP endpoint")
    parser.add_argument("model", help="name of the metric")
    parser.add_argument("reference", type=Path)
    parser.add_argument("distorted", type=Path)
    parser.add_argument("--map", type=Path, help="also save the difference map, as a grey image")
    arguments = parser.parse_args()

    client = http.InferenceServerClient(arguments.server)
    wanted = ["score", "verdict", *(["map"] if arguments.map else [])]
    images = {"reference": arguments.reference, "distorted": arguments.distorted}
    try:
        values = ask(client, arguments.model, images, wanted)
    except InferenceServerException as error:
        print(f"Error: {error.message()}", file=sys.stderr)
        return 2

    # (1,) from MLServer, (1, 1) from Triton, which has no tensors without sizes beside the batch.
    passed = bool(values["verdict"].item()) if "verdict" in values else None
    print(f"score {values['score'].item():.6g}", {None: "", True: " pass", False: " fail"}[passed], sep="")
    if arguments.map:
        if "map" not in values:
            parser.error("map: expected a metric with a map; export it with --map")
        difference = values["map"][0, 0]
        grey = np.uint8(np.rint(255 * difference / max(float(difference.max()), 1e-12)))
        Image.fromarray(grey).save(arguments.map)
    return 1 if passed is False else 0


if __name__ == "__main__":
    sys.exit(main())
