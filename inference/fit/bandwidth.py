"""How fast GPUs read their memory. PURE.

By the names that `nvidia-smi --query-gpu=name` says, in bytes per second, as the makers give them;
each figure with the public page that was read for it in November 2026. What is not listed has no
estimate of speed.
"""

_BY_NAME = {
    # https://acecloud.ai/blog/nvidia-b200-vs-h200-h100-a100: 8.0, 4.8, 3.35 and 2.039 TB/s
    "NVIDIA B200": 8_000e9,
    "NVIDIA H200": 4_800e9,
    "NVIDIA H100 80GB HBM3": 3_350e9,  # the SXM module
    "NVIDIA A100-SXM4-80GB": 2_039e9,
    # https://manuals.plus, NVIDIA H100 PCIe product brief PB-11133-001: above 2,000 GB/s
    "NVIDIA H100 PCIe": 2_000e9,
    # https://gpu.spicedreamphone.com/en/gpu/nvidia/a100-sxm4-40-gb: 1,555 GB/s
    "NVIDIA A100-SXM4-40GB": 1_555e9,
    # ai-dynamo/aiconfigurator, src/aiconfigurator/systems/l40s.yaml: mem_bw 864 GB/s
    "NVIDIA L40S": 864e9,
    # https://www.mullet.se/product.html?product_id=355414: the L40 as the L40S
    "NVIDIA L40": 864e9,
    # https://cpu-gpu.alldbin.com/graphics-card-comparison/A40-PCIe-and-L40G-comparison.html
    "NVIDIA A40": 696e9,
    # https://store.sourcecode.com/en-us/bg-bucket-compare/125/9820: 300 GB/s
    "NVIDIA L4": 300e9,
}


def bandwidth(gpu_type: str) -> float | None:
    """Bytes per second; None where it is not known."""
    return _BY_NAME.get(gpu_type)
