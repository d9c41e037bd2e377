"""Compact models inside s3prl: the upstreams' names, the layer that keeps s3prl running, the parts pip leaves out.

`registry` puts the names into `s3prl.hub`; `expert` is what they give; `compat` stands in for what torch,
torchaudio and huggingface_hub have removed since s3prl 0.4.18; `parts` holds what a clone has and the pip package
lacks; `hook` does all of it in any Python of an environment that imports s3prl.
"""
