"""The benchmark's work as jitted JAX programs: by diffrax, and by a plain `lax.scan` as the least that JAX needs.

Parameters are a flat list, [*weights, *biases, head_weight, head_bias], weights as (out, in). They are the folded ones, so
JAX is spared the folding that our own candidates pay for. An ensemble's have a leading member axis.
"""
import diffrax
import jax
import jax.numpy as jnp


def field(t, z, parameters):
    "Three dense layers with ReLU between them; z (batch, numbers)."
    w1, w2, w3, b1, b2, b3 = parameters
    z = jax.nn.relu(z @ w1.T + b1)
    return jax.nn.relu(z @ w2.T + b2) @ w3.T + b3


def by_diffrax(solver, adjoint, max_steps, **options):
    "A function (z, parameters) -> end state, number of steps; `options` go to `diffeqsolve`."
    def solve(z, parameters):
        solution = diffrax.diffeqsolve(diffrax.ODETerm(field), solver, t0=0., t1=1., y0=z, args=parameters,
                                       adjoint=adjoint, max_steps=max_steps, **options)
        return solution.ys[-1], solution.stats["num_steps"]
    return solve


def euler_solves(n_steps):
    "By name, with every adjoint that diffrax offers for the gradient of the steps themselves."
    adjoints = {"checkpointed": diffrax.RecursiveCheckpointAdjoint(),
                "all steps kept": diffrax.RecursiveCheckpointAdjoint(checkpoints=n_steps),
                "direct": diffrax.DirectAdjoint()}
    return {name: by_diffrax(diffrax.Euler(), adjoint, n_steps, dt0=1 / n_steps) for name, adjoint in adjoints.items()}


def dopri5_solves(tol, max_steps=64):
    "By name; the controller starts, as ours and torchdiffeq's do, from Hairer's step."
    adjoints = {"checkpointed": diffrax.RecursiveCheckpointAdjoint(),
                "all steps kept": diffrax.RecursiveCheckpointAdjoint(checkpoints=max_steps),
                "direct": diffrax.DirectAdjoint()}
    controller = diffrax.PIDController(rtol=tol, atol=tol)
    return {name: by_diffrax(diffrax.Dopri5(), adjoint, max_steps, dt0=None, stepsize_controller=controller)
            for name, adjoint in adjoints.items()}


def scan_solve(n_steps):
    "Euler without a library."
    def solve(z, parameters):
        step = lambda z, _: (z + field(0., z, parameters) / n_steps, None)
        return jax.lax.scan(step, z, None, length=n_steps)[0], n_steps
    return solve


def training_iteration(solve, x, y, parameters, members=None):
    "A function without arguments that returns loss, gradients and number of steps of the jitted program."
    x, y, parameters = jnp.asarray(x), jnp.asarray(y), [jnp.asarray(p) for p in parameters]

    def loss(parameters):
        *dense, head_weight, head_bias = parameters
        z, steps = solve(x, dense)
        log_p = jax.nn.log_softmax(z @ head_weight.T + head_bias)
        return -jnp.take_along_axis(log_p, y[:, None], 1).mean(), steps

    one = jax.value_and_grad(loss, has_aux=True)
    program = jax.jit(one if members is None else jax.vmap(one))

    def run():
        (value, steps), gradients = jax.block_until_ready(program(parameters))
        return value, gradients, steps
    return run
