"""ONNX's own tests of its operators, all of them, through the importer and the rewriting of graphs.

Fetches the wheel `onnx` 1.19.1 with pip into target/onnx-nodes and runs the test `node_tests_of_onnx_pass` over its data; prints
passed / run for each operation and for each class of inputs (fp32, 16 bits, int8, fp8, ..), what is refused and why, and how many
nodes the importer evaluated on the host; it fails if of the operations that models are made of, with inputs of types that the chip
computes with, less than 95 % pass. `--chip` compiles
them to programs and runs these on the chip `mini`, or on `maia-200` where that has no room, with ONNX's own tolerance.
`--sample` copies the directories that stand in tests/onnx.
Run from the root of the crate: python3 tests/onnx_nodes.py [--chip]
"""

import glob
import os
import shutil
import subprocess
import sys
import zipfile

WHEEL = "onnx==1.19.1"
ROOT = "target/onnx-nodes"
DATA = f"{ROOT}/onnx/backend/test/data/node"
SAMPLE = """
abs add_bcast argmax_keepdims_example attention_3d_gqa_with_past_and_present attention_4d_attn_mask_bool_4d
attention_4d_causal attention_4d_diff_heads_sizes_softcap attention_4d_with_qk_matmul_softmax cast_FLOAT_to_FLOAT16
clip concat_3d_axis_1 constantofshape_float_ones dequantizelinear_blocked dynamicquantizelinear_expanded
expand_dim_changed gather_negative_indices gelu_tanh_1 gemm_all_attributes layer_normalization_3d_axis1_epsilon
logsoftmax_axis_1 matmul_4d quantizelinear_axis reduce_mean_keepdims_example
reduce_log_sum_exp_do_not_keepdims_example reshape_negative_dim rms_normalization_3d_axis1_epsilon
rotary_embedding_with_interleaved_rotary_dim slice_neg_steps softmax_axis_1 split_variable_parts_2d_opset18 squeeze
swish top_k_smallest transpose_all_permutations_3 triu_pos unsqueeze_two_axes where_example
""".split()


def fetch():
    if os.path.isdir(DATA):
        return
    os.makedirs(ROOT, exist_ok=True)
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", ROOT, WHEEL], check=True)
    with zipfile.ZipFile(glob.glob(f"{ROOT}/onnx-*.whl")[0]) as wheel:
        wheel.extractall(ROOT, [n for n in wheel.namelist() if n.startswith("onnx/backend/test/data/node/")])


fetch()
if "--sample" in sys.argv:
    for name in SAMPLE:
        shutil.copytree(f"{DATA}/test_{name}", f"tests/onnx/test_{name}", dirs_exist_ok=True)
else:
    env = dict(os.environ, TILEWRIGHT_ONNX_NODES=os.path.abspath(DATA))
    # By its whole path: one name begins with the other.
    test = "onnx::node_tests_of_onnx_pass" + ("_on_chips" if "--chip" in sys.argv else "")
    command = ["cargo", "test", "--test", "it", test, "--", "--nocapture", "--exact"]
    sys.exit(subprocess.run(command, env=env).returncode)
