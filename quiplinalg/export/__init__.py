"""Result files in the formats that other programs run; the codes stay as they are.

============= ================== ========== =================================================
to            layout             bits       what it takes
============= ================== ========== =================================================
"onnx"        MatMulNBits        1 to 8     all that result files have but pruned layers
"safetensors" compressed-tensors 1 to 8     groups of equal size in the order of the columns
"safetensors" gptq (version 2)   2, 3, 4, 8 groups in any order; multiples of 32 as sides
"dense"       .h5, .npz or       any        all that result files have, as floats
              .safetensors
============= ================== ========== =================================================

safetensors takes whole zeros only, and no rescaled or rotated layers.  What a format cannot hold
is an error that names the layer and what to do instead.
"""

from __future__ import annotations

from quiplinalg.export.result import Exported, export_result

__all__ = ["Exported", "export_result"]
