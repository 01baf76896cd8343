"""The benchmark's work as jitted JAX programs: by diffrax, and by a plain `lax.scan` as the least that JAX needs.

Parameters are a flat list, [*weights, *biases, head_weight, head_bias], weights as (out, in). They are the folded ones, so
JAX is spared the folding that our own candidates pay for. An ensemble's have a leading member axis.
"""
import diffrax
import jax
import jax.numpy as jnp


def field_of(activation):
    "Dense layers with `activation` between them, as a function of t, z (batch, numbers) and [*weights, *biases]."
    def field(t, z, parameters):
        weights, biases = parameters[:len(parameters) // 2], parameters[len(parameters) // 2:]
        for weight, bias in zip(weights[:-1], biases):
            z = activation(z @ weight.T + bias)
        return z @ weights[-1].T + biases[-1]
    return field


relu_field = field_of(jax.nn.relu)
tanh_field = field_of(jnp.tanh)


def by_diffrax(field, solver, adjoint, max_steps, **options):
    "A function (z, parameters) -> end state, number of steps; `options` go to `diffeqsolve`."
    def solve(z, parameters):
        solution = diffrax.diffeqsolve(diffrax.ODETerm(field), solver, t0=0., t1=1., y0=z, args=parameters,
                                       adjoint=adjoint, max_steps=max_steps, **options)
        return solution.ys[-1], solution.stats["num_steps"]
    return solve


def euler_solves(n_steps, field=relu_field):
    "By name, with every adjoint that diffrax offers for the gradient of the steps themselves."
    adjoints = {"checkpointed": diffrax.RecursiveCheckpointAdjoint(),
                "all steps kept": diffrax.RecursiveCheckpointAdjoint(checkpoints=n_steps),
                "direct": diffrax.DirectAdjoint()}
    return {name: by_diffrax(field, diffrax.Euler(), adjoint, n_steps, dt0=1 / n_steps) for name, adjoint in adjoints.items()}


def dopri5_solves(tol, max_steps=64, field=relu_field):
    "By name; the controller starts, as ours and torchdiffeq's do, from Hairer's step."
    adjoints = {"checkpointed": diffrax.RecursiveCheckpointAdjoint(),
                "all steps kept": diffrax.RecursiveCheckpointAdjoint(checkpoints=max_steps),
                "direct": diffrax.DirectAdjoint()}
    controller = diffrax.PIDController(rtol=tol, atol=tol)
    return {name: by_diffrax(field, diffrax.Dopri5(), adjoint, max_steps, dt0=None, stepsize_controller=controller)
            for name, adjoint in adjoints.items()}


def scan_solve(n_steps, field=relu_field):
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
