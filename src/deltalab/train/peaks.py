"""Peak arithmetic of GPUs, from their makers' data sheets: what MFU is a share of.

Dense matrix products, TFLOP/s; where a sheet gives the rate "with sparsity", half of it. fp32 is the rate of the plain
fp32 units, for deltalab leaves TF32 off. A device that is not here has no MFU unless ``train.peak_tflops`` is given:
none is guessed, and none of a CPU, whose clock and units no name tells.

Sources: NVIDIA's data sheets of A100, A30, A40, H100 (SXM, PCIe, NVL), H200 (SXM, NVL), L40S, L4 and DGX B200.
"""

from deltalab.spec.train import Precision

BF16, FP32 = Precision.bf16, Precision.fp32

PEAKS: dict[str, dict[Precision, float]] = {
    "B200": {BF16: 2250.0},
    "H200 NVL": {BF16: 835.5, FP32: 60.0},
    "H200": {BF16: 989.5, FP32: 67.0},
    "H100 NVL": {BF16: 835.5, FP32: 60.0},
    "H100 PCIe": {BF16: 756.5, FP32: 51.0},
    "H100": {BF16: 989.5, FP32: 67.0},
    "A100": {BF16: 312.0, FP32: 19.5},
    "A30": {BF16: 165.0, FP32: 10.3},
    "A40": {BF16: 149.7, FP32: 37.4},
    "L40S": {BF16: 362.0, FP32: 91.6},
    "L4": {BF16: 121.0, FP32: 30.3},
}
"""Words of a device's name → precision → TFLOP/s; of two that fit the upper one is meant."""


def peak_tflops(device: str, precision: Precision) -> float | None:
    """Peak of a device by the name that torch gives it, TFLOP/s; None where it is not known.

    Args:
        device: such as ``NVIDIA H100 80GB HBM3``.
        precision: of the products.
    """
    words = device.replace("-", " ").split()
    if "MIG" in words:  # a slice of the device
        return None
    for name, peaks in PEAKS.items():
        parts = name.split()
        if any(words[place : place + len(parts)] == parts for place in range(len(words))):
            return peaks.get(precision)
    return None
