"""The embedded miniature world: coloured shapes whose truth is known exactly.

`world` draws scenes, `prompts` words them in GenEval's six tags, `networks` makes the two miniature pipelines,
`build` trains them; noise/ and flow/ are what it made. Nothing outside this folder knows that the models are small.
"""
