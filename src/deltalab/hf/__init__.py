"""deltalab's models for Hugging Face's transformers (extra ``hf``): importing this registers them.

    import deltalab.hf
    model = AutoModelForCausalLM.from_pretrained(folder)     # a folder that ``deltalab export`` wrote

No code is taken from the folder (no ``trust_remote_code``): the classes are this package's.
"""

from importlib.util import find_spec

from deltalab.errors import MissingExtra

if find_spec("transformers") is None:
    raise MissingExtra("deltalab.hf: transformers is not installed; pip install 'deltalab[hf]'")

from transformers import AutoConfig, AutoModelForCausalLM

from deltalab.hf.configuration import DeltalabConfig
from deltalab.hf.modeling import DeltalabForCausalLM

AutoConfig.register(DeltalabConfig.model_type, DeltalabConfig, exist_ok=True)
AutoModelForCausalLM.register(DeltalabConfig, DeltalabForCausalLM, exist_ok=True)

__all__ = ["DeltalabConfig", "DeltalabForCausalLM"]
