"""Language models: `sizes` says which are compared, `reading` in which order rows read documents, `training` trains,
`evaluation` asks what each token costs and what the memory is worth, `cells` and `experiment` compare, and `command` is
the command line. `pretrained` and `tuning_command` do the same for a GPT-2 of Hugging Face.
"""
