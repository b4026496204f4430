"""What a board runs, told by nobody but itself: opens an ONNX file, runs it on its own inputs, prints JSON. Arguments: FILE [FAULT]."""

import json
import sys
import time

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feed = {node.name: np.zeros([1 if not isinstance(n, int) else n for n in node.shape], np.float32) for node in session.get_inputs()}
times = []
for _ in range(12):
    start = time.perf_counter()
    session.run(None, feed)
    times.append(1000 * (time.perf_counter() - start))
size = sum(array.size for array in map(np.asarray, session.run(None, feed)))
print("warming up ...")
print(json.dumps({"times_ms": times[2:], "energy_mj": 2.5 * float(np.median(times)), "peak_memory_bytes": 4096 + size}))
