"""Keras 3: a second model, with the inputs of the layers as its outputs, collects the Hessians.

Works for any Sequential or functional model, with any backend; here a small convolutional network.
A convolution (channels last, one group) is a matrix too: its kernel (height, width, in, out) with
the first three axes as one; its inputs are the patches of the image that the kernel slides over.

Usage: ``KERAS_BACKEND=jax python examples/export_keras.py digits.h5``; needs keras with a backend
(jax, torch or tensorflow) and scikit-learn.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers
from walkthrough import batches, main

import quiplinalg as ql


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Reshape((8, 8, 1), name="image"),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="conv0"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
            layers.Flatten(name="flat"),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, name="head"),
        ],
        name="digits",  # the paths of the variables must not depend on what was built before
    )


def train(x: np.ndarray, y: np.ndarray) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(x, y, epochs=15, batch_size=64, verbose=0)
    return model


def predict(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return model.predict(x, verbose=0)


def matrices(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that multiply by a matrix."""
    return [part for part in model.layers if isinstance(part, layers.Dense | layers.Conv2D)]


def rows(layer: keras.layers.Layer, inputs: np.ndarray) -> np.ndarray:
    """What the matrix of the layer is multiplied with: (..., n)."""
    if isinstance(layer, layers.Dense):
        return inputs
    patches = keras.ops.image.extract_patches
    return patches(
        inputs, layer.kernel_size, layer.strides, layer.dilation_rate, padding=layer.padding
    )


def export(model: keras.Model, x: np.ndarray, file: ql.ProblemWriter) -> None:
    found = matrices(model)
    kernels = [np.asarray(layer.kernel).reshape(-1, layer.kernel.shape[-1]) for layer in found]
    hessians = [ql.Hessian(len(kernel)) for kernel in kernels]
    watch = keras.Model(model.inputs, [layer.input for layer in found])
    for batch in batches(x):
        for layer, H, inputs in zip(found, hessians, watch([batch]), strict=True):
            H.add(rows(layer, inputs))

    for layer, kernel, H in zip(found, kernels, hessians, strict=True):
        file.add(layer.name, kernel, H, orientation="in_out")
    written = {layer.kernel.path for layer in found}
    for variable in model.weights:  # biases, norms, embeddings: kept as they are
        if variable.path not in written:
            file.add_array(variable.path, variable)


def put_back(problem: ql.ProblemReader, result: ql.ResultReader) -> keras.Model:
    model = build()
    for layer in matrices(model):
        kernel = result.layer(layer.name).dequantize().T
        layer.kernel.assign(kernel.reshape(layer.kernel.shape))
    for variable in model.weights:
        if variable.path in problem.arrays:
            variable.assign(problem.array(variable.path))
    return model


if __name__ == "__main__":
    main(train, predict, export, put_back)
