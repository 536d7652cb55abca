#!/usr/bin/env python3
"""Times ViT-B/32 (CLIP's image half, 224 x 224, random weights) on batches of images: transformers and onnxruntime, float32, CPU.

    python vision.py --cache DIR [--threads N] [--runs 5]

Pixels in, the pooled vector out. The ONNX model is exported once, into --cache. One JSON line per measurement on stdout.
"""

import argparse
import contextlib
import sys
import warnings
from pathlib import Path

from common import default_threads, measure, report, set_threads

BATCHES = [1, 8, 32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    set_threads(args.threads)
    warnings.filterwarnings("ignore")

    import numpy as np
    import onnxruntime
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    config = transformers.CLIPVisionConfig()
    config._attn_implementation = "sdpa"
    model = transformers.CLIPVisionModel(config).eval()

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values):
            return self.model(pixel_values=pixel_values).pooler_output

    pooled = Pooled().eval()
    pixels = np.random.default_rng(1).standard_normal((max(BATCHES), 3, 224, 224), dtype=np.float32)
    # Seeded weights: the exported ones are those of this run.
    target = args.cache / f"vit-b32-torch{torch.__version__.split('+')[0]}.onnx"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        batch = torch.export.Dim("batch", min=1, max=256)
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            torch.onnx.export(
                pooled, (torch.from_numpy(pixels[:2]),), str(target), input_names=["pixel_values"],
                output_names=["pooled"], dynamic_shapes={"pixel_values": {0: batch}}, dynamo=True, external_data=False,
            )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])

    with torch.inference_mode():
        want = pooled(torch.from_numpy(pixels[:2])).numpy()
    apart = np.abs(session.run(None, {"pixel_values": pixels[:2]})[0] - want).max()
    print(f"onnxruntime and torch differ by {apart:.1e}", file=sys.stderr)
    assert apart < 1e-3

    for batch in BATCHES:
        images, case = pixels[:batch], f"vit_b32_n{batch}"

        def with_torch():
            with torch.inference_mode():
                return pooled(torch.from_numpy(images)).numpy()

        version = f"{torch.__version__.split('+')[0]} (transformers {transformers.__version__})"
        report("torch", "vision", case, args.threads, measure(with_torch, args.runs), version)
        onnx = measure(lambda: session.run(None, {"pixel_values": images}), args.runs)
        report("onnxruntime", "vision", case, args.threads, onnx, onnxruntime.__version__)


if __name__ == "__main__":
    main()
