"""The embedded miniature world: coloured shapes whose truth is known exactly.

`world` draws scenes, `prompts` words them in GenEval's six tags, `detector` reads an image back, `build` trains the
shipped miniature pipeline. Nothing outside this folder knows that the model is small.
"""
