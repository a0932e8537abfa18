"""What magpie costs, measured: `python -m benchmarks.NAME`, a table for people and one JSON object as the last line.

saturation: a build's tokens/s over those of a bare engine loop. pushdown: what it saves to filter before answering.
overhead: CPU time of the pipeline per completion. filter: seconds and memory for millions of rows. reward: vLLM pooling
over transformers one by one. dedup: near pairs and nearest neighbours against a flat search.
README.md says what each figure means.
"""
