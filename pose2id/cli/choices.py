"""What options can be set to, by name, without loading what the names stand for; a test compares them with it."""

ENGINES = ("auto", "exact", "native", "faiss", "pivots", "faiss-ivf", "faiss-hnsw")
PROTOCOLS = ("market1501", "all", "sysu-mm01", "cuhk03", "vehicleid")
SIDES = ("query", "gallery")
METRICS = ("euclidean", "cosine")
LAYOUTS = ("reference", "pose")
DTYPES = ("float32", "float16", "bfloat16")
PRESETS = ("published", "balanced", "fast", "draft")
SOLVERS = ("ddim", "ddpm", "dpm++", "unipc", "euler", "euler-ancestral", "lcm", "tcd")
SHELLS = ("bash", "zsh", "tcsh")
PARTS = ("query", "gallery", "train")
POOLS = ("tracklet",)
