"""Functions as a user of ``onnxloc export jax`` writes them, right ones and wrong ones."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

VOCABULARY, WIDTH, LAYERS = 20, 8, 3
IDS = np.zeros((2, 5), np.int64)
PIXELS = np.ones((2, 4), np.float32)


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape) * 0.3, dtype)


PARAMS = {"embed": normal(VOCABULARY, WIDTH), "unused": normal(3)}


def on_text(apply):
    return apply, PARAMS, {"input_ids": IDS}


# --- forms of parameters -----------------------------------------------------------------------


def plain():
    params = {"layer": [{"kernel": normal(4, 6), "bias": normal(6)}, {"kernel": normal(6, 3)}]}

    def apply(params, x, scale):
        with jax.named_scope("hidden"):
            first, second = params["layer"]
            hidden = jax.jit(lambda h: jnp.tanh(h * scale))(x @ first["kernel"] + first["bias"])
        return {"hidden": hidden, "out": hidden @ second["kernel"]}

    return apply, params, (PIXELS, np.float32(2))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, pixels):
        return nn.Dense(3, name="second")(nn.gelu(nn.Dense(6, name="first")(pixels)))


def linen():
    module = Linen()
    return module, module.init(jax.random.key(0), PIXELS), (PIXELS,)


def linen_apply():
    module, params, inputs = linen()
    return module.apply, params, inputs


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 6, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, pixels):
        return self.second(self.drop(jax.nn.relu(self.first(pixels)), deterministic=True))


def flax_nnx():
    return NNX(nnx.Rngs(0)), None, (PIXELS,)


def flax_nnx_as_params():
    return lambda model, pixels: model(pixels) * 2, NNX(nnx.Rngs(0)), {"pixels": PIXELS}


def equinox():
    net = eqx.nn.MLP(4, 3, 6, 1, activation=jnp.tanh, key=jax.random.key(0))
    return lambda model, pixels: jax.vmap(model)(pixels), net, (PIXELS,)


class Scaled(eqx.Module):
    weight: jax.Array
    power: int

    def __call__(self, pixels):
        return (pixels @ self.weight) ** self.power


def equinox_alone():
    return Scaled(normal(4, 3), 3), None, (PIXELS,)


def half():
    return (
        lambda params, x: jax.nn.relu(x @ params["w"]),
        {"w": normal(4, 3, dtype=jnp.float16)},
        {"x": PIXELS.astype(np.float16)},
    )


# --- constructs --------------------------------------------------------------------------------


def scan():
    def apply(params, x):
        def step(h, w):
            with jax.named_scope("step"):
                return jnp.tanh(h @ w), None

        return jax.lax.scan(step, x, params["w"])[0]

    return apply, {"w": normal(LAYERS, 4, 4)}, {"x": PIXELS}


def reverse_scan():
    def apply(params, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["w"], reverse=True)[0]

    return apply, {"w": normal(LAYERS, 4, 4)}, {"x": PIXELS}


def flax_attention():
    def apply(params, x):
        q, k, v = (x @ params[name] for name in "qkv")
        mixed = nnx.dot_product_attention(*(a[:, :, None] for a in (q, k, v)))
        return mixed[:, :, 0]

    return apply, {name: normal(4, 4) for name in "qkv"}, {"x": np.ones((2, 5, 4), np.float32)}


def closed_over(factor="1"):
    table = normal(400, WIDTH) * float(factor)
    return on_text(lambda params, input_ids: params["embed"][input_ids] + table.sum(0))


def fixed_length():
    return on_text(lambda params, input_ids: params["embed"][input_ids].reshape(2, 5, WIDTH))


# --- wrong ones --------------------------------------------------------------------------------


def not_a_triple():
    return 1, 2


def not_callable():
    return 3, PARAMS, {"input_ids": IDS}


def no_params():
    return lambda params, x: x, {}, (PIXELS,)


def no_inputs():
    return lambda params: params["embed"], PARAMS, ()


def text_as_input():
    return lambda params, x: x, PARAMS, {"x": "words"}


def number_as_inputs():
    return lambda params, x: x, PARAMS, 3


def name_twice():
    return lambda params, embed: params["embed"][embed], PARAMS, {"embed": IDS}


def wrong_examples():
    return lambda params, x: x @ params["embed"], PARAMS, {"x": np.ones((2, 3), np.float32)}


def fails():
    raise KeyError("weights")


def arange():
    def apply(params, input_ids):
        places = jnp.arange(input_ids.shape[1])
        return params["embed"][input_ids] + places[:, None]

    return on_text(apply)


def python_loop():
    def apply(params, input_ids):
        x = params["embed"][input_ids]
        for i in range(input_ids.shape[1]):
            x = x + i
        return x

    return on_text(apply)


def python_if():
    def apply(params, input_ids):
        x = params["embed"][input_ids]
        if x.sum() > 0:
            x = x + 1
        return x

    return on_text(apply)


def callback():
    def apply(params, input_ids):
        x = params["embed"][input_ids]
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((WIDTH,), jnp.float32), x[0, 0])

    return on_text(apply)


def no_output():
    return on_text(lambda params, input_ids: None)
