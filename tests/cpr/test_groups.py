"""These parameters are regularized, in small modules and in models of common libraries."""

import pytest
import torch
from torch import nn

from cpr import AdamCPR, regularized_groups, regularized_names
from cpr.groups import decisions, describe

SHORT = "fewer than two dimensions above 1"
SWITCH = "embedding (reg_embedding=False)"
POSITION = "position embedding by its name"


def weights_of(model: nn.Module, *kinds: type[nn.Module]) -> set[str]:
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)}


def exempt_matrices(model: nn.Module, reg_embedding: bool = False) -> dict[str, str | None]:
    """Return the reasons of the exempt parameters with two or more dimensions."""
    decided = decisions(model, reg_embedding)
    return {name: decided[name] for name, p in model.named_parameters() if decided[name] and p.ndim >= 2}


def switched(model: nn.Module) -> set[str]:
    """Return the parameters that only `reg_embedding=True` regularizes."""
    with_embeddings, without = regularized_names(model, reg_embedding=True), regularized_names(model)
    assert set(without) <= set(with_embeddings)
    return set(with_embeddings) - set(without)


def on_meta(make, *arguments, **options) -> nn.Module:
    with torch.device("meta"):
        return make(*arguments, **options)


def timm_model(name: str) -> nn.Module:
    timm = pytest.importorskip("timm")
    return on_meta(timm.create_model, name, pretrained=False)


def transformer(model: str, config: str, **options) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return on_meta(getattr(transformers, model), getattr(transformers, config)(**options))


def gpt2(**options) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 50}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **options))


LAYERS = [nn.Linear(3, 4), nn.Linear(1, 4), nn.Linear(4, 1), nn.Conv1d(3, 1, 1), nn.LSTM(3, 4)]
LAYER_NAMES = "linear_bias to_token pos_encoder pos_embed wpe logit_scale norm cls_token"
NORMS = [
    nn.LayerNorm((4, 4)),
    nn.RMSNorm((4, 4)),
    nn.GroupNorm(2, 4),
    nn.BatchNorm2d(4),
    nn.InstanceNorm2d(4, affine=True),
]
NORM_CLASSES = """
    RMSNorm LlamaRMSNorm T5LayerNorm LayerNorm2d BatchNormAct2d GroupNorm1 FrozenBatchNorm2d EvoNorm2dS0 EvoNorm2dS0a
    FilterResponseNormTlu2d RmsNorm2dFp32 LayerNormExp2d NemotronLayerNorm1P Zamba2RMSNormGated GRN ConvNextV2GRN
    ConvNextLayerNorm GlobalResponseNorm LayerNormalization Layernorm
"""
NO_NORM_CLASSES = "NormLinear ConvNorm PreNormAttention NormMlp NormFreeBlock ConvNormLayer Normal"
EXEMPT = """
    cls_token dist_token register_tokens query_tokens mask_token detection_tokens class_token1 latents
    pos_embed pos_embed1 posEmbed position_embeddings pos_encoding pos_embedding positional_embedding W_pos patch_pos
    wpe rel_pos_h rel_pos_w relative_position_bias_table rel_height emb_rel_k spatial_pos class_embedding class_pos_emb
    bias attention_biases r_w_bias pos_bias_u
    logit_scale layer_scale scale gamma gamma_1 temperature A_log A_logs log_dt
"""
MATRICES = """
    proj text_projection in_proj_weight gate_up_proj W_q kernel query rescaled_basis tokenizer_map gammatone logits_map
    compose visual_prompts_projection pos_proj positionwise_weight position_wise_weight
"""
EXEMPT_EMBEDDINGS = """
    wpe position_embeddings x_position_embeddings embed_positions positions_embed pos_emb rel_embeddings
    relative_attention_bias distance_embedding row_embedder iou_token mask_tokens user_bias
"""
EMBEDDINGS = "wte embed_tokens tokens embed_token token_type_embeddings word_embeddings 0"


class Holder(nn.Module):
    """A module of an unknown type that holds the given parameters."""

    def __init__(self, **parameters: nn.Parameter) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            self.register_parameter(name, parameter)


class Wrapper(nn.Module):
    """Add a prefix to names, as DDP does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def ones(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


# The type of the module comes first


@pytest.mark.parametrize("name", LAYER_NAMES.split())
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_weights_of_a_layer_are_matrices_whatever_its_name_or_shape(name, layer):
    expected = [f"{name}.{weight}" for weight, _ in layer.named_parameters() if weight.startswith("weight")]
    assert regularized_names(nn.ModuleDict({name: layer})) == expected


def test_a_linear_layer_inside_a_position_embedding_is_bounded():
    model = nn.ModuleDict({"pos_embed": nn.ModuleDict({"proj": nn.Linear(4, 4)})})
    assert regularized_names(model) == ["pos_embed.proj.weight"]


@pytest.mark.parametrize(
    ("layer", "matrices"),
    [
        (nn.Bilinear(2, 3, 4), ["weight"]),
        (nn.ConvTranspose2d(2, 3, 1), ["weight"]),
        (nn.Conv2d(4, 4, 1, groups=4), ["weight"]),
        (nn.GRU(1, 1), ["weight_ih_l0", "weight_hh_l0"]),
        (nn.LSTM(2, 4, proj_size=1), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
        (nn.RNN(1, 2, 2), ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"]),
        (nn.LSTMCell(1, 1), ["weight_ih", "weight_hh"]),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), ["in_proj_weight", "out_proj.weight"]),
        (
            nn.MultiheadAttention(4, 2, kdim=3, vdim=1),
            ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_exactly_the_weights_of_torch_s_layers_are_bounded(layer, matrices):
    assert regularized_names(layer) == matrices


class NormLinear(nn.Linear):
    pass


class NormalizedLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = ones(4, 1)
        self.scale = ones(4, 1)


class LinearNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_layer = nn.Linear(4, 4)
        self.weight = ones(4, 4)


class Conv1D(nn.Module):
    """The layer of the same name in transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = ones(1, 4)
        self.bias = ones(4)


@pytest.mark.parametrize(
    ("layer", "matrices"),
    [
        (NormLinear(4, 4), ["0.weight"]),
        (NormalizedLinear(), ["0.weight"]),
        (LinearNorm(), ["0.weight", "0.linear_layer.weight"]),
        (Conv1D(), ["0.weight"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_class_named_like_a_layer_is_not_a_norm(layer, matrices):
    assert regularized_names(nn.Sequential(layer)) == matrices


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_a_normalization_layer_is_exempt_whatever_the_shape_of_its_weight(norm):
    assert regularized_names(nn.Sequential(norm, nn.Linear(4, 4))) == ["1.weight"]


@pytest.mark.parametrize("name", NORM_CLASSES.split())
def test_a_class_whose_name_ends_like_a_norm_is_a_norm(name):
    norm = type(name, (Holder,), {})(weight=ones(4, 4), bias=ones(4, 4))
    model = nn.Sequential(norm, nn.Linear(4, 4))
    assert regularized_names(model) == ["1.weight"]
    assert decisions(model)["0.weight"] == f"normalization layer {name}"


@pytest.mark.parametrize("name", NO_NORM_CLASSES.split())
def test_a_class_whose_name_only_contains_norm_is_not_a_norm(name):
    assert regularized_names(type(name, (Holder,), {})(weight=ones(4, 4))) == ["weight"]


def test_the_magnitude_of_weight_norm_is_exempt_and_its_direction_is_a_matrix():
    new = nn.utils.parametrizations.weight_norm
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.Linear(4, 3))
        recurrent = nn.utils.weight_norm(nn.LSTM(4, 3), "weight_hh_l0")
    convolution = new(nn.Conv1d(4, 4, 3), dim=2)
    model = nn.ModuleDict({"old": old, "new": new(nn.Linear(4, 3)), "pos_conv_embed": convolution, "rnn": recurrent})
    assert regularized_names(model) == [
        "old.weight_v",
        "new.parametrizations.weight.original1",
        "pos_conv_embed.parametrizations.weight.original1",
        "rnn.weight_ih_l0",
        "rnn.weight_hh_l0_v",
    ]
    magnitudes = [name for name, reason in decisions(model).items() if reason == "magnitude of weight_norm"]
    assert magnitudes == [
        "old.weight_g",
        "new.parametrizations.weight.original0",
        "pos_conv_embed.parametrizations.weight.original0",
        "rnn.weight_hh_l0_g",
    ]


def test_other_reparametrized_weights_are_matrices():
    from torch.nn.utils import parametrizations, prune, spectral_norm

    model = nn.Sequential(nn.Linear(1, 4), nn.Linear(1, 4), nn.Linear(1, 4))
    spectral_norm(model[0])
    parametrizations.spectral_norm(model[1])
    prune.identity(model[2], "weight")
    assert regularized_names(model) == ["0.weight_orig", "1.parametrizations.weight.original", "2.weight_orig"]


def test_matrices_that_only_share_weight_norm_s_names_are_matrices():
    assert regularized_names(Holder(W_g=ones(4, 4), W_v=ones(4, 4))) == ["W_g", "W_v"]


# Parameters of other modules


@pytest.mark.parametrize("shape", [(4,), (4, 1), (1, 4), (4, 1, 1), (1, 1, 4), (1, 1, 1, 4)])
def test_a_free_parameter_with_fewer_than_two_dimensions_above_1_is_not_a_matrix(shape):
    assert decisions(Holder(layer=ones(*shape), matrix=ones(4, 4))) == {"layer": SHORT, "matrix": None}


@pytest.mark.parametrize("shape", [(1, 1, 8), (8, 1), (2, 8)])
@pytest.mark.parametrize("name", EXEMPT.split())
def test_biases_tokens_positions_and_scales_of_any_shape_are_exempt(name, shape):
    model = nn.Linear(3, 3, bias=False)
    model.register_parameter(name, nn.Parameter(torch.ones(shape)))
    assert regularized_names(model) == ["weight"]
    assert regularized_names(model, reg_embedding=True) == ["weight"]


@pytest.mark.parametrize("name", MATRICES.split())
def test_other_free_matrices_are_bounded(name):
    assert regularized_names(Holder(**{name: ones(4, 4)})) == [name]


def test_what_is_inside_a_position_embedding_is_exempt():
    model = nn.ModuleDict(
        {
            "pos_embed": Holder(height_rel=ones(4, 4)),
            "position_embeddings": nn.ParameterList([ones(4, 4)]),
            "embed_positions": nn.ModuleDict({"pe_k": nn.Embedding(4, 4)}),
            "pe": type("LearnedPositionalEncoding", (Holder,), {})(table=ones(4, 4)),
            "attention": type("RelPositionMultiHeadAttention", (Holder,), {})(w_q=ones(4, 4)),
        }
    )
    assert regularized_names(model, reg_embedding=True) == ["attention.w_q"]


def test_an_integer_or_empty_parameter_is_exempt():
    quantized = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    model = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    model[0].weight = quantized
    model[1].weight = ones(0, 4)
    assert decisions(model) == {"0.weight": "int8 values", "1.weight": "no elements"}


# Embeddings


def test_embeddings_follow_the_switch_and_positions_are_always_exempt():
    model = gpt2()
    assert len(regularized_names(model)) == 2 * 4
    assert switched(model) == {"transformer.wte.weight"}
    assert decisions(model)["transformer.wte.weight"] == SWITCH
    assert decisions(model, reg_embedding=True)["transformer.wpe.weight"] == POSITION


def test_an_embedding_bag_and_an_embedding_of_another_library_follow_the_switch():
    quantized = type("QuantEmbedding", (Holder,), {})(weight=ones(4, 4))
    free = Holder(weight=ones(4, 4))
    model = nn.ModuleDict({"bag": nn.EmbeddingBag(4, 4), "words": quantized, "token_embedding": free})
    assert regularized_names(model) == []
    assert regularized_names(model, reg_embedding=True) == ["bag.weight", "words.weight", "token_embedding.weight"]


@pytest.mark.parametrize("name", EXEMPT_EMBEDDINGS.split())
def test_embeddings_of_positions_special_tokens_and_biases_are_always_exempt(name):
    model = nn.ModuleDict({name: nn.Embedding(4, 4), "linear": nn.Linear(4, 4)})
    assert regularized_names(model, reg_embedding=True) == ["linear.weight"]


@pytest.mark.parametrize("name", EMBEDDINGS.split())
def test_other_embeddings_follow_the_switch(name):
    model = nn.ModuleDict({name: nn.Embedding(4, 4), "linear": nn.Linear(4, 4)})
    assert switched(model) == {f"{name}.weight"}


def test_a_parameter_tied_to_an_embedding_follows_the_embedding_s_switch():
    head, embedding = nn.Linear(4, 9, bias=False), nn.Embedding(9, 4)
    embedding.weight = head.weight
    model = nn.ModuleDict({"head": head, "embedding": embedding, "inner": nn.Linear(4, 4)})
    assert regularized_names(model) == ["inner.weight"]
    assert regularized_names(model, reg_embedding=True) == ["head.weight", "inner.weight"]


def test_a_head_tied_to_the_embedding_is_regularized_with_it_and_named_once():
    model = gpt2()
    assert model.lm_head.weight is model.transformer.wte.weight
    assert switched(model) == {"transformer.wte.weight"}
    groups = regularized_groups(model, reg_embedding=True)
    assert sum(p is model.lm_head.weight for group in groups for p in group["params"]) == 1


def test_an_untied_head_is_a_matrix_like_any_other():
    names = regularized_names(gpt2(tie_word_embeddings=False))
    assert "lm_head.weight" in names
    assert "transformer.wte.weight" not in names


# Exempted by the model itself


def test_a_parameter_marked_no_weight_decay_is_exempt():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight._no_weight_decay = True
    assert regularized_names(model) == ["1.weight"]


def test_a_parameter_with_settings_in_optim_gets_its_own_group():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
    model[0].weight._optim = {"lr": 1e-4, "weight_decay": 0.0}
    model[2].weight._optim = {"lr": 1e-4}
    groups = regularized_groups(model)
    found = [([id(p) for p in group["params"]], group["regularize"], group.get("lr")) for group in groups]
    assert found == [
        ([id(model[1].weight)], True, None),
        ([id(model[2].weight)], True, 1e-4),
        ([id(model[0].weight)], False, 1e-4),
        ([id(model[0].bias), id(model[1].bias)], False, None),
    ]
    optimizer = AdamCPR(model, lr=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1e-4, 1e-4, 0.5]
    assert decisions(model)["0.weight"] == "weight_decay 0 in _optim"


def test_the_names_of_timm_s_no_weight_decay_are_exempt():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model.no_weight_decay = lambda: {"0.weight"}
    assert regularized_names(model) == ["1.weight"]
    assert decisions(model)["0.weight"] == "no_weight_decay() of Sequential"


class Exempting(nn.Sequential):
    names = ("0.weight", "blocks.*.weight", "missing", "0.missing.weight", "0", "", "1.weight.more")

    @torch.jit.ignore
    def no_weight_decay(self):
        return list(self.names)


def test_no_weight_decay_of_every_submodule_counts_and_missing_names_are_ignored():
    inner = Exempting(nn.Linear(4, 4), nn.Linear(4, 4))
    inner.blocks = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for model, prefix in ((inner, ""), (nn.Sequential(inner), "0."), (Wrapper(nn.Sequential(inner)), "module.0.")):
        assert regularized_names(model) == [f"{prefix}1.weight"]
        assert decisions(model)[f"{prefix}blocks.1.weight"] == "no_weight_decay() of Exempting"


@pytest.mark.parametrize("name", ["mvitv2_tiny", "xcit_nano_12_p16_224", "swin_tiny_patch4_window7_224"])
def test_a_wrapped_timm_model_is_decided_like_the_model_alone(name):
    model = timm_model(name)
    alone = decisions(model)
    assert name != "mvitv2_tiny" or list(alone.values()).count(None) == 75
    for wrapped, prefix in (
        (nn.Sequential(model), "0."),
        (Wrapper(model), "module."),
        (torch.compile(model), "_orig_mod."),
        (Wrapper(nn.Sequential(torch.compile(model))), "module.0._orig_mod."),
    ):
        assert decisions(wrapped) == {prefix + parameter: reason for parameter, reason in alone.items()}


# Real models: images


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "convnext_tiny", "swin_t", "mvit_v2_s"])
def test_exactly_the_linear_and_convolution_weights_of_torchvision_s_models_are_regularized(name):
    torchvision = pytest.importorskip("torchvision")
    model = on_meta(torchvision.models.get_model, name, weights=None)
    assert set(regularized_names(model)) == weights_of(model, nn.Conv2d, nn.Conv3d, nn.Linear)


def test_torchvision_s_convnext_exempts_its_layer_scales():
    torchvision = pytest.importorskip("torchvision")
    exempt = exempt_matrices(on_meta(torchvision.models.convnext_tiny, weights=None))
    assert set(exempt.values()) == {"scale by its name"}
    assert len(exempt) == 18 and all(name.endswith(".layer_scale") for name in exempt)


@pytest.mark.parametrize(
    ("name", "exempt"),
    [
        ("vit_tiny_patch16_224", {"cls_token", "pos_embed"}),
        ("deit_tiny_distilled_patch16_224", {"cls_token", "dist_token", "pos_embed"}),
        ("vit_base_patch16_siglip_224", {"pos_embed", "latent"}),
        ("xcit_nano_12_p16_224", {"temperature", "cls_token"}),
        ("swin_tiny_patch4_window7_224", {"relative_position_bias_table"}),
        ("swinv2_tiny_window8_256", {"logit_scale"}),
        ("mvitv2_tiny", {"rel_pos_h", "rel_pos_w"}),
        ("samvit_base_patch16", {"rel_pos_h", "rel_pos_w", "pos_embed"}),
        ("botnet26t_256", {"height_rel", "width_rel"}),
        ("convnextv2_atto", set()),
        ("levit_128s", {"attention_biases"}),
        ("test_nfnet", {"gain"}),
        ("resmlp_12_224", {"alpha", "beta"}),
        ("fastvit_t8", {"gamma"}),
    ],
)
def test_exactly_the_linear_and_convolution_weights_of_timm_s_models_are_regularized(name, exempt):
    model = timm_model(name)
    assert set(regularized_names(model)) == weights_of(model, nn.Conv2d, nn.Linear)
    assert {parameter.split(".")[-1] for parameter in exempt_matrices(model)} == exempt


def test_convnextv2_exempts_its_response_normalization():
    sizes = {"hidden_sizes": [4, 4, 4, 4], "depths": [1, 1, 1, 1]}
    model = transformer("ConvNextV2Model", "ConvNextV2Config", **sizes)
    assert set(regularized_names(model)) == weights_of(model, nn.Conv2d, nn.Linear)
    exempt = {f"encoder.stages.{i}.layers.0.grn.{kind}" for i in range(4) for kind in ("weight", "bias")}
    assert exempt_matrices(model) == dict.fromkeys(exempt, "normalization layer ConvNextV2GRN")


def test_sam_s_vision_encoder_exempts_its_positions():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "output_channels": 4}
    model = transformer("SamVisionModel", "SamVisionConfig", global_attn_indexes=[0], **sizes)
    assert set(regularized_names(model)) == weights_of(model, nn.Conv2d, nn.Linear)
    attention = "vision_encoder.layers.0.attn"
    exempt = ["vision_encoder.pos_embed", f"{attention}.rel_pos_h", f"{attention}.rel_pos_w"]
    assert exempt_matrices(model) == dict.fromkeys(exempt, POSITION)


# Real models: language


def test_gpt2_s_attention_and_mlp_matrices_are_the_regularized_ones():
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert regularized_names(gpt2()) == [f"transformer.h.{i}.{layer}.weight" for i in range(2) for layer in layers]


def test_exactly_the_linear_weights_of_llama_are_regularized():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformer("LlamaForCausalLM", "LlamaConfig", vocab_size=50, **sizes)
    assert set(regularized_names(model)) == weights_of(model, nn.Linear)
    assert switched(model) == {"model.embed_tokens.weight"}


def test_bert_s_words_and_types_follow_the_switch_and_its_positions_are_exempt():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = transformer("BertModel", "BertConfig", vocab_size=20, **sizes)
    assert set(regularized_names(model)) == weights_of(model, nn.Linear)
    assert switched(model) == {"embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"}
    assert exempt_matrices(model, reg_embedding=True) == {"embeddings.position_embeddings.weight": POSITION}


def test_t5_s_relative_positions_are_exempt_although_they_are_an_embedding():
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 20}
    model = transformer("T5ForConditionalGeneration", "T5Config", tie_word_embeddings=True, **sizes)
    head = {"lm_head.weight"}  # tied to the embedding `shared`
    assert set(regularized_names(model)) == weights_of(model, nn.Linear) - head
    assert switched(model) == {"shared.weight"}
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert exempt_matrices(model, reg_embedding=True) == {f"encoder.{bias}": POSITION, f"decoder.{bias}": POSITION}


@pytest.mark.parametrize("kind", ["Mamba", "FalconMamba"])
def test_mamba_s_projections_and_convolution_are_regularized_and_its_state_matrix_is_not(kind):
    sizes = {"hidden_size": 8, "state_size": 4, "num_hidden_layers": 1, "vocab_size": 20, "time_step_rank": 2}
    model = transformer(f"{kind}Model", f"{kind}Config", **sizes)
    mixer = "layers.0.mixer"
    matrices = ("conv1d", "in_proj", "x_proj", "dt_proj", "out_proj")
    assert regularized_names(model) == [f"{mixer}.{matrix}.weight" for matrix in matrices]
    assert switched(model) == {"embeddings.weight"}
    decided = decisions(model)
    assert set(exempt_matrices(model, reg_embedding=True)) == {f"{mixer}.A_log"}
    assert decided[f"{mixer}.D"] and decided["norm_f.weight"] == f"normalization layer {kind}RMSNorm"


# Real models: images and language


class ClipLike(nn.Module):
    """A module with the parameters of open_clip's CLIP: two towers, tokens, projections, logit scale."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, 8, 4, bias=False)
        self.visual.class_embedding = ones(8)
        self.visual.positional_embedding = ones(5, 8)
        self.visual.ln_pre = nn.LayerNorm(8)
        self.visual.attn = nn.MultiheadAttention(8, 2)
        self.visual.proj = ones(8, 6)
        self.token_embedding = nn.Embedding(11, 8)
        self.positional_embedding = ones(7, 8)
        self.text_projection = ones(8, 6)
        self.logit_scale = nn.Parameter(torch.ones([]))


def test_a_clip_model_s_projections_and_attention_are_regularized_and_tokens_positions_and_the_scale_are_not():
    attention = {"visual.attn.in_proj_weight", "visual.attn.out_proj.weight"}
    assert set(regularized_names(ClipLike())) == {"text_projection", "visual.proj", "visual.conv1.weight", *attention}
    assert switched(ClipLike()) == {"token_embedding.weight"}


def test_open_clip_s_model_is_decided_like_clip_s():
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 8, "patch_size": 4, "width": 8, "layers": 1, "head_width": 4}
    text = {"context_length": 4, "vocab_size": 9, "width": 8, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=4, vision_cfg=vision, text_cfg=text)
    blocks = ("transformer.resblocks.0", "visual.transformer.resblocks.0")
    layers = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    inner = {f"{block}.{layer}" for block in blocks for layer in layers}
    assert set(regularized_names(model)) == {"text_projection", "visual.proj", "visual.conv1.weight", *inner}
    assert switched(model) == {"token_embedding.weight"}


def test_transformers_clip_exempts_class_embedding_positions_and_the_scale():
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    configs = {"text_config": {**tower, "vocab_size": 20}, "vision_config": {**tower, "image_size": 8, "patch_size": 4}}
    model = transformer("CLIPModel", "CLIPConfig", projection_dim=4, **configs)
    assert set(regularized_names(model)) == weights_of(model, nn.Linear, nn.Conv2d)
    assert switched(model) == {"text_model.embeddings.token_embedding.weight"}
    decided = decisions(model, reg_embedding=True)
    assert decided["vision_model.embeddings.class_embedding"] == "class embedding by its name"
    assert decided["logit_scale"] == "scale by its name"
    assert {name for name, reason in decided.items() if reason == POSITION} == {
        "text_model.embeddings.position_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
    }


# LoRA


@pytest.mark.parametrize("r", [1, 2])
def test_peft_s_lora_matrices_are_always_matrices(r):
    peft = pytest.importorskip("peft")
    model = gpt2()
    config = peft.LoraConfig(r=r, target_modules=["c_attn", "wte", "wpe"], fan_in_fan_out=True)
    peft.inject_adapter_in_model(config, model)
    adapters = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(adapters) == 2 * (2 + 2) and all(".lora_" in name for name in adapters)
    assert regularized_names(model) == adapters


def test_lora_of_convolutions_is_regularized_and_dora_s_magnitude_is_not():
    peft = pytest.importorskip("peft")
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "linear": nn.Linear(4, 4)})
    peft.inject_adapter_in_model(peft.LoraConfig(r=1, target_modules=["conv", "linear"], use_dora=True), model)
    matrices = [f"{layer}.lora_{ab}.default.weight" for layer in ("conv", "linear") for ab in "AB"]
    assert regularized_names(model) == matrices
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained - set(matrices) == {f"{layer}.lora_magnitude_vector.default.weight" for layer in ("conv", "linear")}


def test_hand_written_lora_on_a_layer_or_an_embedding_is_regularized():
    linear, embedding = nn.Linear(4, 4, bias=False), nn.Embedding(9, 4)
    for layer in (linear, embedding):
        layer.lora_A, layer.lora_B = ones(1, 4), ones(4, 1)
    model = nn.ModuleDict({"linear": linear, "wpe": embedding})
    assert regularized_names(model) == ["linear.weight", "linear.lora_A", "linear.lora_B", "wpe.lora_A", "wpe.lora_B"]


# This repository's models


def test_resnet18_has_21_matrices_and_the_paper_s_size():
    model = pytest.importorskip("tasks.models.resnet18").ResNet18(100)
    assert len(regularized_names(model)) == 21
    assert set(regularized_names(model)) == weights_of(model, nn.Conv2d, nn.Linear)
    assert sum(p.numel() for p in model.parameters()) == 11_220_132


def test_the_grokking_decoder_s_token_embedding_follows_the_switch_and_its_positions_are_exempt():
    model = pytest.importorskip("tasks.grokking.model").Decoder(7, width=16)
    assert set(regularized_names(model)) == weights_of(model, nn.Linear)
    assert switched(model) == {"token_embedding.weight"}
    assert decisions(model, reg_embedding=True)["pos_embedding"] == POSITION


def test_the_gpt2_task_s_model_regularizes_its_linear_weights():
    module = pytest.importorskip("tasks.gpt2.model")
    model = module.GPT2(module.Shape(width=16, layers=2, heads=2, context=4, vocabulary=8, positions="learned"))
    assert set(regularized_names(model)) == weights_of(model, nn.Linear)
    assert switched(model) == {"token_embedding.weight"}
    assert exempt_matrices(model, reg_embedding=True) == {"pos_embedding": POSITION}


# Groups


def test_frozen_parameters_stay_in_the_groups_and_are_not_listed():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    assert regularized_names(model) == ["2.weight"]
    bounded, exempt = regularized_groups(model)
    assert bounded.keys() == exempt.keys() == {"params", "regularize"}
    assert bounded["regularize"] is True and exempt["regularize"] is False
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in bounded["params"]] == ["0.weight", "2.weight"]
    assert [names[id(p)] for p in exempt["params"]] == ["0.bias", "1.weight", "1.bias", "2.bias"]


def test_a_layer_that_is_unfrozen_later_is_trained_and_bounded():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)
    model[1].requires_grad_(True)
    optimizer = AdamCPR(model, lr=0.1, kappa_init_method="uniform", kappa_init_param=1e-3)
    before = model[0].weight.clone()
    for step in range(2):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        assert torch.equal(model[0].weight, before) == (step == 0)
        model[0].requires_grad_(True)
    assert "kappa" in optimizer.state[model[0].weight] and "kappa" not in optimizer.state[model[0].bias]


@pytest.mark.parametrize("reg_embedding", [False, True])
def test_the_groups_hold_every_parameter_once_in_the_model_s_order(reg_embedding):
    model = gpt2()
    model.transformer.h[0].requires_grad_(False)
    groups = regularized_groups(model, reg_embedding)
    assert [group["regularize"] for group in groups] == [True, False]
    position = {id(p): index for index, p in enumerate(model.parameters())}
    orders = [[position[id(p)] for p in group["params"]] for group in groups]
    assert all(order == sorted(order) for order in orders)
    assert sorted(index for order in orders for index in order) == list(range(len(position)))


def test_a_model_of_matrices_alone_has_one_group():
    assert [group["regularize"] for group in regularized_groups(nn.Linear(4, 4, bias=False))] == [True]


def test_the_optimizer_groups_a_model_like_regularized_groups():
    model = gpt2()
    for reg_embedding in (False, True):
        made = AdamCPR(model, reg_embedding=reg_embedding).param_groups
        expected = regularized_groups(model, reg_embedding)
        assert [[id(p) for p in g["params"]] for g in made] == [[id(p) for p in g["params"]] for g in expected]


def test_groups_made_for_weight_decay_are_regularized_if_the_decay_is_not_zero():
    a, b = ones(2, 2), ones(2, 2)
    optimizer = AdamCPR([{"params": [a], "weight_decay": 0.1}, {"params": [b], "weight_decay": 0.0}])
    assert [group["regularize"] for group in optimizer.param_groups] == [True, False]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0]


@pytest.mark.parametrize("model", [nn.LayerNorm(4), nn.Linear(4, 4).requires_grad_(False), nn.Embedding(4, 4)], ids=str)
def test_a_model_without_a_trainable_matrix_is_refused_by_its_name(model):
    message = r"has no matrix to regularize\. Pass parameter groups with regularize=True instead"
    with pytest.raises(ValueError, match=f"^{type(model).__name__} {message}$"):
        regularized_groups(model)


def test_a_lazy_module_without_a_shape_is_refused_by_its_name():
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 4))
    message = r"^0\.weight of Sequential has no shape yet\. Pass one batch through the model first$"
    for function in (regularized_names, regularized_groups, decisions, describe):
        with pytest.raises(ValueError, match=message):
            function(model)
    model(torch.ones(1, 4))
    assert regularized_names(model) == ["0.weight", "1.weight"]


# The decisions as text


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = ones(1, 1, 4)
        self.words = nn.Embedding(1000, 4)
        self.norm = nn.RMSNorm(4)
        self.layer = nn.Linear(4, 3)
        self.head = nn.Linear(4, 1000, bias=False)
        self.head.weight = self.words.weight
        self.layer.bias.requires_grad_(False)


def test_decisions_give_every_parameter_once_with_a_reason_for_each_exempt_one():
    assert decisions(Small()) == {
        "cls_token": "token by its name",
        "words.weight": SWITCH,
        "norm.weight": "normalization layer RMSNorm",
        "layer.weight": None,
        "layer.bias": "bias",
    }
    assert decisions(Small(), reg_embedding=True)["words.weight"] is None


def test_describe_prints_bounded_and_exempt_parameters_with_totals():
    assert describe(Small()) == (
        "Bounded: 1 matrix, 12 elements\n"
        "    layer.weight  3 x 4\n"
        "Exempt: 4 parameters, 4,011 elements\n"
        "  token by its name: 1 parameter, 4 elements\n"
        "    cls_token     1 x 1 x 4\n"
        "  embedding (reg_embedding=False): 1 parameter, 4,000 elements\n"
        "    words.weight  1000 x 4\n"
        "  normalization layer RMSNorm: 1 parameter, 4 elements\n"
        "    norm.weight   4\n"
        "  bias: 1 parameter, 3 elements\n"
        "    layer.bias    3  (frozen)"
    )
    with_embeddings = describe(Small(), reg_embedding=True).splitlines()
    assert with_embeddings[:2] == ["Bounded: 2 matrices, 4,012 elements", "    words.weight  1000 x 4"]


def test_describe_works_on_the_meta_device():
    assert describe(on_meta(Small)) == describe(Small())
