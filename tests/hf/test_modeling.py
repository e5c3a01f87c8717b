"""The model under transformers: loaded without its code, scored with and without padding, generated with as our own."""

# ruff: noqa: E402 (the package is imported once it is known that transformers is there)

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install 'deltalab[hf]')")

import deltalab
import deltalab.hf
from deltalab import cli
from deltalab.data.tokens import load_encoder
from deltalab.hf.export import export
from deltalab.hf.modeling import DeltalabForCausalLM
from deltalab.model.generate import generate
from deltalab.model.language_model import LanguageModel
from deltalab.spec.data import TextSpec
from deltalab.spec.sampling import SamplingSpec
from deltalab.study import ledger
from tests.exchange.trained import BPE, TEXT, trained

PROMPTS = ["größe λ", "v", "value = 1, 2, 3"]
NEW = 10


def exported(folder: Path, *overrides: str, dtype: str | None = None, **family: str) -> tuple[Path, LanguageModel]:
    """An exported trial and the model it is of."""
    spec = trained(folder / "runs", *overrides, **family)
    export(spec.trial_id, folder / "out", folder / "runs", dtype=dtype)
    return folder / "out", deltalab.load(ledger.trial_dir(folder / "runs", spec.trial_id))


def read(folder: Path, **options: Any) -> DeltalabForCausalLM:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    assert isinstance(model, DeltalabForCausalLM)
    return model


@pytest.mark.parametrize("overrides", [TEXT, BPE], ids=["bytes", "bpe"])
@pytest.mark.parametrize("pattern", ["[mixer]", "[mixer,swa]", "[attention]"])
def test_greedy_batches_are_our_own(tmp_path: Path, overrides: tuple[str, ...], pattern: str) -> None:
    folder, ours = exported(tmp_path, *overrides, pattern=pattern)
    model, tokenizer = read(folder), transformers.AutoTokenizer.from_pretrained(folder)
    want = generate(ours, [tokenizer(prompt).input_ids for prompt in PROMPTS], SamplingSpec(max_tokens=NEW))
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    assert not batch.attention_mask.all()
    for use_cache in (True, False):
        found = model.generate(**batch, max_new_tokens=NEW, use_cache=use_cache, eos_token_id=None)
        assert found[:, -NEW:].tolist() == want
    stop = want[0][3]
    ended = model.generate(**batch, max_new_tokens=NEW, eos_token_id=stop)[0, batch.input_ids.shape[1] :].tolist()
    end = want[0].index(stop) + 1
    assert ended[:end] == want[0][:end]
    assert set(ended[end:]) <= {tokenizer.pad_token_id}


def test_logits_do_not_see_padding_and_the_loss_is_shifted(tmp_path: Path) -> None:
    folder, ours = exported(tmp_path, *TEXT)
    model, tokens = read(folder), torch.randint(256, (2, 12))
    with torch.no_grad():
        want = ours(tokens)
        torch.testing.assert_close(model(tokens).logits, want)
        mask = torch.ones(2, 16, dtype=torch.int64)
        mask[0, :4] = mask[1, 12:] = 0
        padded = torch.full((2, 16), 256).masked_scatter(mask.bool(), tokens)
        logits = model(padded, attention_mask=mask).logits
        torch.testing.assert_close(logits[mask.bool()].view(2, 12, -1), want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(tokens, logits_to_keep=3).logits, want[:, -3:])
        loss = torch.nn.functional.cross_entropy(want[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        torch.testing.assert_close(model(tokens, labels=tokens).loss, loss)
        torch.testing.assert_close(model(tokens, labels=tokens, return_dict=False)[0], loss)
        with pytest.raises(ValueError, match="attention_mask: a sequence without a token"):
            model(padded, attention_mask=mask * torch.tensor([[1], [0]]))


def test_a_cache_goes_on_by_one_token_or_several(tmp_path: Path) -> None:
    folder, ours = exported(tmp_path, *TEXT)
    model, tokens = read(folder), torch.randint(256, (2, 12))
    with torch.no_grad():
        want, output = ours(tokens), model(tokens[:, :5])
        assert output.cache.get_seq_length() == 5
        for upto in (6, 10, 12):
            begin = output.cache.get_seq_length()
            output = model(tokens[:, begin:upto], cache=output.cache)
            torch.testing.assert_close(output.logits, want[:, begin:upto], rtol=1e-4, atol=1e-5)
    assert model(tokens, use_cache=False).cache is None
    assert model.train()(tokens).cache is None


def test_a_conversation_goes_on_from_its_cache(tmp_path: Path) -> None:
    folder, _ = exported(tmp_path, *TEXT)
    model, tokens = read(folder), torch.randint(256, (1, 7))
    whole = model.generate(tokens, max_new_tokens=8, eos_token_id=None)
    first = model.generate(tokens, max_new_tokens=4, eos_token_id=None, return_dict_in_generate=True)
    again = model.generate(first.sequences, max_new_tokens=4, eos_token_id=None, cache=first.cache)
    assert torch.equal(again, whole)


def test_beams_and_several_samples(tmp_path: Path) -> None:
    folder, _ = exported(tmp_path, *TEXT)
    model, tokens = read(folder), torch.randint(256, (2, 7))
    both = [
        model.generate(tokens, max_new_tokens=6, num_beams=3, eos_token_id=None, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(*both)
    several = model.generate(tokens, max_new_tokens=6, do_sample=True, num_return_sequences=3, eos_token_id=None)
    assert several.shape == (6, 13)
    assert len({tuple(row.tolist()) for row in several}) > 2


def test_it_trains_with_gradients_of_the_whole_model(tmp_path: Path) -> None:
    folder, _ = exported(tmp_path, *TEXT)
    model, tokens = read(folder), torch.randint(256, (2, 12))
    model(tokens, labels=tokens, use_cache=True).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_it_saves_and_comes_back_and_deltalab_loads_it(tmp_path: Path) -> None:
    folder, ours = exported(tmp_path, *TEXT)
    model, tokens = read(folder), torch.randint(256, (2, 12))
    assert model.config.tie_word_embeddings
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in ours.parameters())
    model.save_pretrained(tmp_path / "again")
    with torch.no_grad():
        for back in (read(tmp_path / "again"), deltalab.load(tmp_path / "again"), deltalab.load(folder)):
            logits = back(tokens)
            torch.testing.assert_close(getattr(logits, "logits", logits), ours(tokens))


def test_a_shorter_type_leaves_decay_rates_in_fp32(tmp_path: Path) -> None:
    folder, ours = exported(tmp_path, *TEXT, dtype="bfloat16")
    tokens = torch.randint(256, (2, 12))
    for model in (read(folder), read(folder, dtype=torch.bfloat16)):
        kinds = {name.removeprefix("model."): parameter.dtype for name, parameter in model.named_parameters()}
        assert {name for name, dtype in kinds.items() if dtype is torch.float32} == ours.fp32 != set()
        with torch.no_grad():
            want = ours(tokens)
            assert (model(tokens).logits.float() - want).norm() <= 0.05 * want.norm()


def test_a_configuration_alone_gives_the_trials_initial_values(tmp_path: Path) -> None:
    folder, _ = exported(tmp_path, *TEXT)
    config = transformers.AutoConfig.from_pretrained(folder)
    made = transformers.AutoModelForCausalLM.from_config(config)
    assert (made.config.vocab_size, made.config.hidden_size, made.config.num_hidden_layers) == (257, 64, 2)
    fresh = LanguageModel(config.spec.variant, config.spec.model)
    from deltalab.model.init import initialise

    initialise(fresh, config.spec.model, config.spec.seed)
    found = dict(made.model.named_parameters())
    assert all(torch.equal(found[name], parameter) for name, parameter in fresh.named_parameters())


def test_an_enlarged_vocabulary_stays_tied_and_comes_back(tmp_path: Path) -> None:
    folder, _ = exported(tmp_path, *TEXT)
    model = read(folder)
    model.resize_token_embeddings(260)
    assert model(torch.tensor([[259, 3]])).logits.shape == (1, 2, 260)
    model.save_pretrained(tmp_path / "larger")
    assert torch.equal(read(tmp_path / "larger").model.embedding, model.model.embedding)


@pytest.mark.parametrize("overrides", [TEXT, BPE], ids=["bytes", "bpe"])
def test_the_tokenizer_has_our_ids_and_comes_back(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    spec = trained(tmp_path / "runs", *overrides)
    assert isinstance(spec.data, TextSpec)
    encoder = load_encoder(spec.data, ledger.trial_dir(tmp_path / "runs", spec.trial_id))
    export(spec.trial_id, tmp_path / "out", tmp_path / "runs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ("größe λ = value", " two  spaces\n\ttab", "don't, 'll"):
        assert tokenizer(text).input_ids == encoder.encode_text(text)
        assert tokenizer.decode(encoder.encode_text(text)) == text
    assert tokenizer.eos_token_id == encoder.end == spec.data.vocab_size - 1
    assert read(tmp_path / "out").generation_config.eos_token_id == encoder.end
    assert tokenizer("a<|endoftext|>").input_ids[-1] == encoder.end


def test_a_task_without_text_has_no_tokenizer(tmp_path: Path) -> None:
    folder, ours = exported(tmp_path, "data=recall")
    assert {path.name for path in folder.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    found = read(folder).generate(torch.tensor([[3, 40, 5]]), max_new_tokens=4)
    assert found[0, 3:].tolist() == generate(ours, [[3, 40, 5]], SamplingSpec(max_tokens=4))[0]


def test_the_command_exports_and_refuses_a_full_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained(tmp_path / "runs", *TEXT)
    asked = ["deltalab", "export", spec.trial_id, str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", asked)
    for code in (0, 2):
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code or 0) == code
    assert capsys.readouterr().err == f"deltalab: {tmp_path / 'out'}: not empty; allowed is a new or an empty folder\n"
    monkeypatch.setattr("sys.argv", [*asked[:3], str(tmp_path / "half"), *asked[4:], "--dtype", "float8"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2


def test_without_transformers_it_says_what_to_install() -> None:
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'transformers' else find(name, *rest)\n"
        "try: import deltalab.hf\n"
        "except ImportError as error: print(error, getattr(error, 'exit_code', None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "deltalab.hf: transformers is not installed; pip install 'deltalab[hf]' 2\n"
