"""What run.py breaks: a text that occurs once in the package, what it becomes, and the tests that must go red.

Every selection of a mutant is run on its own, and each must fail. Where there are several, the first compares with a
formula written out, the others look at draws alone: the statistics would find the error without the formula.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One error, put in on purpose."""

    sampler: str
    file: str  # below the package
    what: str
    old: str
    new: str
    tests: tuple[str, ...]


def mutants_of(sampler, file, tests, changes):
    """One mutant for each change: (what, old, new), or with tests of its own as the fourth."""
    return [Mutant(sampler, file, what, old, new, *(own or (tests,))) for what, old, new, *own in changes]


S, C = "tests/samplers/", "tests/core/"
FORMULAS = S + "test_formulas.py -k "
INVARIANCE = S + "test_invariance.py -k "
JOINT = S + "test_joint.py -k "

MUTANTS = [
    *mutants_of("LangevinDynamics", "samplers/langevin.py", (FORMULAS + "test_langevin", S + "test_langevin.py"), [
        ("noise without its factor 2", "(2 * step_size * temperature)", "(step_size * temperature)"),
        ("drift uphill", "add_scaled(state.x, -step_size, gradient)", "add_scaled(state.x, step_size, gradient)"),
        ("temperature dropped", "(2 * step_size * temperature)", "(2 * step_size)"),
        ("noise scale squared", "noise_scale * (2", "noise_scale**2 * (2"),
        ("a bound hides NaN", "t.clamp(low, high) + (t - t)", "t.clamp(low, high)",
         (S + "test_langevin.py -k bounds",)),
    ]),
    *mutants_of("LangevinDynamics", "core/target.py", (C + "test_divergence.py",), [
        ("a slope where the energy is not finite", "gradient + per_chain((energy - energy).to(x.dtype), gradient)",
         "gradient"),
    ]),
    *mutants_of("MetropolisHastings", "samplers/metropolis_hastings.py",
                (FORMULAS + "metropolis", INVARIANCE + "'gumbel and MH'", JOINT + "MetropolisHastings"), [
        ("sign of the energies", "(state.energy - new.energy)", "(new.energy - state.energy)"),
        ("temperature dropped", ".to(u.dtype) / temperature", ".to(u.dtype)",
         (FORMULAS + "metropolis", INVARIANCE + "'temperature_a_chain and MH'")),
        ("a step without its scale", "add_scaled(state.x, proposal_scale, xi)", "state.x + xi",
         (FORMULAS + "metropolis",)),
    ]),
    *mutants_of("MetropolisHastings", "samplers/acceptance.py",
                (S + "test_acceptance.py", INVARIANCE + "'gumbel and MH'"), [
        ("ratio replaced by its root", "torch.log1p(-u) < log_ratio", "torch.log1p(-u) < 0.5 * log_ratio"),
        ("what is not finite may be accepted", "accepted = finite & (", "accepted = (",
         (S + "test_acceptance.py", C + "test_divergence.py")),
        ("a proposal outside the support diverges", " | (new_energy == torch.inf))", ")",
         (S + "test_acceptance.py", C + "test_divergence.py -k bounded")),
        ("a chain outside the support is sound", " | ~old_energy.isfinite()", "", (S + "test_acceptance.py",)),
        ("a stranded chain waits", " | stranded)", ")", (S + "test_acceptance.py", C + "test_divergence.py")),
    ]),
    *mutants_of("HamiltonianMonteCarlo", "samplers/hamiltonian.py",
                (FORMULAS + "test_hamiltonian_monte_carlo", INVARIANCE + "'gumbel and HMC'"), [
        ("first half step whole", "p = add_scaled(p, -0.5 * kick, gradient)", "p = add_scaled(p, -kick, gradient)"),
        ("last half step whole", "else -0.5 * kick", "else -kick"),
        ("last half step left out", "else -0.5 * kick", "else -0.0 * kick"),
        ("inner kicks halved", "-kick if i < n_steps - 1", "-0.5 * kick if i < n_steps - 1",
         (FORMULAS + "test_hamiltonian_monte_carlo", S + "test_hamiltonian.py")),
        ("drift without the mass", "add_scaled(x, step_size, mass.velocity(p))", "add_scaled(x, step_size, p)",
         (FORMULAS + "test_hamiltonian_monte_carlo", S + "test_hamiltonian.py -k energy_error")),
        ("momentum of a scalar mass without its root", "xi * self.mass**0.5", "xi * self.mass",
         (FORMULAS + "test_hamiltonian_monte_carlo", INVARIANCE + "'gumbel and heavy'")),
        ("kinetic energy without the mass", "velocity = mass.velocity(p) if velocity is None",
         "velocity = p if velocity is None",
         (FORMULAS + "test_hamiltonian_monte_carlo", INVARIANCE + "'gumbel and heavy'")),
        ("kinetic energy without its half", "return 0.5 * sum_event(p.to(dtype)", "return sum_event(p.to(dtype)"),
        ("no energy error is too large", "(log_ratio > -MAX_ENERGY_ERROR) & ", "",
         (S + "test_underdamped.py -k lost_the_trajectory",)),
        ("momentum of a diagonal mass inverted", "1 / mass, mass.sqrt()", "1 / mass, 1 / mass.sqrt()",
         (FORMULAS + "test_hamiltonian_monte_carlo", INVARIANCE + "'correlated and diagonal'")),
        ("factor of a dense mass transposed", "@ self.factor.T).view_as(xi)", "@ self.factor).view_as(xi)",
         (FORMULAS + "test_hamiltonian_monte_carlo", INVARIANCE + "'correlated and dense'")),
        ("a kept momentum in wrong units", "p / mass.momentum(torch.ones_like(p[:1]))", "p",
         (S + "test_hmc.py -k one_transition", INVARIANCE + "'gumbel and kept and varies'")),
    ]),
    *mutants_of("HamiltonianMonteCarlo", "samplers/hmc.py",
                (FORMULAS + "test_hamiltonian_monte_carlo", INVARIANCE + "'gumbel and HMC'",
                 JOINT + "HamiltonianMonteCarlo"), [
        ("kinetic energy dropped", "/ temperature - gain)", "/ temperature)"),
        ("sign of the kinetic energy", "/ temperature - gain)", "/ temperature + gain)"),
        ("sign of the potential energy", "(state.energy - energy) /", "(energy - state.energy) /"),
        ("temperature dropped from the kick", "kick = step_size / per_chain(temperature, state.x)", "kick = step_size",
         (FORMULAS + "test_hamiltonian_monte_carlo",)),
        ("temperature dropped from the test", "(state.energy - energy) / temperature", "(state.energy - energy)",
         (FORMULAS + "test_hamiltonian_monte_carlo", INVARIANCE + "'temperature_a_chain and HMC'")),
        ("momentum not turned where rejected", "state._replace(momentum=-z)", "state._replace(momentum=z)",
         (S + "test_hmc.py -k one_transition", INVARIANCE + "'gumbel and kept'")),
        ("kept momentum without its root", "(1 - self.momentum_refresh) ** 0.5", "(1 - self.momentum_refresh)",
         (S + "test_hmc.py -k one_transition", INVARIANCE + "'gumbel and kept'")),
        ("jitter only upwards", "(2 * noise[2] - 1)", "noise[2]", (S + "test_hmc.py -k one_transition",)),
    ]),
    *mutants_of("MetropolisAdjustedLangevin", "samplers/mala.py",
                (S + "test_mala.py -k 'one_step or balance'", INVARIANCE + "'gumbel and MALA'",
                 JOINT + "MetropolisAdjusted"), [
        ("proposal correction dropped", "((state.energy - new.energy) + correction)", "(state.energy - new.energy)"),
        ("sign of the proposal correction", " + correction)", " - correction)"),
        ("sign within the correction", "0.5 * move - 0.25 * drift", "0.5 * move + 0.25 * drift"),
        ("sign of the energies", "((state.energy - new.energy)", "((new.energy - state.energy)"),
        ("noise without its factor 2", "(2 * h) ** 0.5", "h**0.5"),
        ("drift uphill", "add_scaled(state.x, -drift,", "add_scaled(state.x, drift,"),
        ("preconditioner without its root", "c.sqrt()", "c",
         (S + "test_mala.py -k one_step", S + "test_mala.py -k leaves_the_density")),
    ]),
    *mutants_of("BarkerProposal", "samplers/barker.py",
                (S + "test_barker.py -k 'one_step or balance'", INVARIANCE + "'gumbel and Barker'",
                 JOINT + "Barker"), [
        ("proposal correction dropped", "/ temperature + correction)", "/ temperature)"),
        ("sign of the proposal correction", "/ temperature + correction)", "/ temperature - correction)"),
        ("half of the correction dropped", " - logsigmoid(-move * here)", ""),
        ("sign of the turning probability", "torch.sigmoid(-sigma * xi * here)", "torch.sigmoid(sigma * xi * here)"),
        ("turned where it should be kept", "torch.where(kept, xi, -xi)", "torch.where(kept, -xi, xi)"),
        ("temperature dropped at the proposal", "beta * new.gradient", "new.gradient",
         (S + "test_barker.py -k one_step", INVARIANCE + "'temperature_a_chain and Barker'")),
    ]),
    *mutants_of("NoUTurnSampler", "samplers/nuts.py",
                (S + "test_nuts.py -k reference", INVARIANCE + "'gumbel and NUTS'"), [
        ("U-turn seen at one end only", " & (sum_event(rho * end) > 0)", ""),
        ("U-turn with the sign turned", "sum_event(rho * start) > 0", "sum_event(rho * start) < 0",
         (S + "test_nuts.py -k reference",)),  # short trees, and exact
        ("checks between the halves left out", "if not between:", "if True:",
         (S + "test_nuts.py -k 'reference or cross_checks'",)),  # exact without them
        ("sub-trees not checked", "walking & goes_on(old, new, rho, between=level > 0)",
         "walking & (goes_on(old, new, rho, between=level > 0) | bool(waiting))"),
        ("halves weighed alike", "log_u[:, level] < new.log_weight - total", "log_u[:, level] < -0.7 + 0 * total"),
        ("preference upside down", "new.log_weight - old.log_weight)", "old.log_weight - new.log_weight)"),
        ("weight of one half for that of both", "torch.logaddexp(old.log_weight", "torch.maximum(old.log_weight"),
        ("kinetic energy dropped from the weights", "/ temperature - gain)", "/ temperature)",
         (S + "test_nuts.py -k reference", INVARIANCE + "'gumbel and NUTS'", JOINT + "deep_trees")),
        ("always forwards", "u[:, 0] < 0.5", "u[:, 0] < 0.0"),
        ("momenta of a half forgotten", "rho = old.rho + new.rho", "rho = new.rho",
         (S + "test_nuts.py -k reference",)),
        ("doubled at the wrong end", "whole, turns_round = waiting[0], sign[:, depth] != sign[:, depth - 1]",
         "whole, turns_round = waiting[0], sign[:, depth] == sign[:, depth - 1]", (S + "test_nuts.py -k reference",)),
        ("an energy error of any size", "(log_weight > lowest) & ", "",
         (S + "test_nuts.py -k 'reference or 1000 or funnel'",)),
    ]),
    *mutants_of("ChEESHamiltonianMonteCarlo", "samplers/chees.py", (S + "test_chees.py -k gradient",), [
        ("sign of the gradient of the path length", "return self._path * torch.where(",
         "return -self._path * torch.where(",
         (S + "test_chees.py -k gradient", S + "test_chees.py -k near_the_best")),
        ("squares added", "squared_length(metric, end) - squared_length(metric, start)",
         "squared_length(metric, end) + squared_length(metric, start)"),
        ("chains that were rejected count alike", "torch.where(live & ~info.diverging, info.acceptance_rate, 0.0)",
         "torch.where(live & ~info.diverging, 1.0, 0.0)"),
        ("arithmetic for the harmonic mean", "torch.where(going, 1 / info.acceptance_rate, 0.0)",
         "torch.where(going, info.acceptance_rate, 0.0)", (S + "test_chees.py -k harmonic",)),
        ("every path of full length", "radical_inverse(start + k + 1) * longest[k]", "longest[k]",
         (S + "test_chees.py -k 'transition or schedule'",)),
        ("every proposal accepted", "return select(accepted, end, state), PathInfo", "return end, PathInfo",
         (S + "test_chees.py -k one_transition", INVARIANCE + "'gumbel and ChEES'")),
    ]),
    *mutants_of("UnderdampedLangevin", "samplers/hamiltonian.py", (S + "test_underdamped.py -k one_step",), [
        ("friction halved", "return math.exp(-rate), (-", "return math.exp(-0.5 * rate), (-",
         (S + "test_underdamped.py -k one_step", S + "test_underdamped.py -k harmonic",
          INVARIANCE + "'gumbel and underdamped'")),
        ("noise halved", "(-math.expm1(-2 * rate))", "(-math.expm1(-rate))",
         (S + "test_underdamped.py -k one_step", S + "test_underdamped.py -k harmonic",
          INVARIANCE + "'gumbel and underdamped'")),
    ]),
    *mutants_of("UnderdampedLangevin", "samplers/underdamped.py", (S + "test_underdamped.py -k one_step",), [
        ("a half drift made whole", "0.5 * h, metric.velocity(p))\n        p = kept",
         "h, metric.velocity(p))\n        p = kept",
         (S + "test_underdamped.py -k one_step", S + "test_underdamped.py -k harmonic")),
        ("a half kick left out", "p = add_scaled(p, -0.5 * kick, gradient)\n        x =", "x =",
         (S + "test_underdamped.py -k one_step", S + "test_underdamped.py -k harmonic")),
        ("momentum not turned where rejected", "state._replace(momentum=-p)", "state._replace(momentum=p)",
         (S + "test_underdamped.py -k one_step", INVARIANCE + "'gumbel and underdamped'")),
        ("sign of the kinetic energy", "/ temperature - gain)", "/ temperature + gain)",
         (S + "test_underdamped.py -k one_step", INVARIANCE + "'gumbel and underdamped'")),
        ("kinetic energy dropped", "/ temperature - gain)", "/ temperature)",
         (S + "test_underdamped.py -k one_step", INVARIANCE + "'gumbel and underdamped'")),
        ("the first momentum without its mass", "self.metric(x).momentum(normal_(", "(normal_(",
         (S + "test_underdamped.py -k 'start_with or momenta_are_invariant'",)),
    ]),
    *mutants_of("StochasticGradientLangevin", "samplers/stochastic_gradient.py",
                (S + "test_stochastic_gradient.py -k step_of", S + "test_stochastic_gradient.py -k on_a_posterior"), [
        ("noise without its factor 2", "(2 * step_size * temperature)", "(step_size * temperature)"),
        ("drift uphill", "add_scaled(state.x, -h, self.estimate", "add_scaled(state.x, h, self.estimate"),
        ("the last row never seen", "(noise[1] * self.n_data)", "(noise[1] * (self.n_data - 1))",
         (S + "test_stochastic_gradient.py -k step_of", S + "test_stochastic_gradient.py -k rows_count_alike")),
    ]),
    *mutants_of("StochasticGradientHMC", "samplers/stochastic_gradient.py",
                (S + "test_stochastic_gradient.py -k step_of",
                 S + "test_stochastic_gradient.py -k hmc_on_a_posterior"), [
        ("noise of the gradient not subtracted", " - kick * kick * self._variance(x)", ""),
        ("no friction", "(1 - lost) * p", "p"),
        ("noise without its factor 2", "(2 * lost", "(lost"),
        ("positions move before the kick", "x = add_scaled(x, h, p)\n        return Moving",
         "x = add_scaled(x, h, state.momentum)\n        return Moving"),
    ]),
    *mutants_of("ParallelTempering", "samplers/replicas.py",
                (S + "test_tempering.py -k written_out", S + "test_tempering.py -k exact_draws_of_a_skewed",
                 JOINT + "replicas"), [
        ("sign of the swap ratio", "(beta[:, :-1] - beta[:, 1:])", "(beta[:, 1:] - beta[:, :-1])"),
        ("swap ratio without temperatures", "(beta[:, :-1] - beta[:, 1:])", "1.0"),
        ("a swap that copies", "+ up - down", "+ up"),
    ]),
    *mutants_of("ParallelTempering", "samplers/tempering.py",
                (S + "test_tempering.py -k written_out", S + "test_tempering.py -k exact_draws_of_a_skewed"), [
        ("overlapping pairs at once", "((pairs + turn) % 2 == 0)", "((pairs + turn) % 2 >= 0)"),
        ("the same pairs every time", "((pairs + turn) % 2 == 0)", "(pairs % 2 + 0 * turn == 0)",
         (S + "test_tempering.py -k written_out", S + "test_tempering.py -k 'take_turns or round_trips'")),
        ("temperature of the whole dropped", "(ladder * per_chain(temperature, u))",
         "(ladder * torch.ones_like(u[:, :1]))", (S + "test_tempering.py -k written_out",)),
    ]),
    *mutants_of("ParallelTempering", "samplers/ladder.py", (S + "test_tempering.py -k swap_rates_equal",), [
        ("rates of acceptance for those of rejection", "[1 - rate for rate in rates]", "[rate for rate in rates]"),
    ]),
    *mutants_of("MicrocanonicalLangevin", "samplers/microcanonical.py",
                (S + "test_microcanonical.py -k one_", INVARIANCE + "'gumbel and microcanonical'"), [
        ("kinetic energy dropped", ".to(gain.dtype) + gain", ".to(gain.dtype) + 0 * gain"),
        ("sign of the kinetic energy", ".to(gain.dtype) + gain", ".to(gain.dtype) - gain"),
        ("sign of the potential energy", "((new.energy - old.energy) /", "((old.energy - new.energy) /"),
        ("volume of one dimension more", "return turned, (u[0].numel() - 1) *", "return turned, u[0].numel() *"),
        ("turned uphill", "e, delta = -uphill, time * size", "e, delta = uphill, time * size",
         (S + "test_microcanonical.py -k one_", S + "test_microcanonical.py -k normal_density")),
        ("first half turn whole", "0.5 * whole)\n    energy = gradient", "whole)\n    energy = gradient",
         (S + "test_microcanonical.py -k one_", S + "test_microcanonical.py -k back_to_the_start")),
        ("last half turn whole", "else 0.5 * whole)", "else whole)",
         (S + "test_microcanonical.py -k one_", S + "test_microcanonical.py -k back_to_the_start")),
        ("turned by one dimension more", "((u[0].numel() - 1) * temperature)", "(u[0].numel() * temperature)",
         (S + "test_microcanonical.py -k one_", S + "test_microcanonical.py -k energy_error_falls")),
        ("temperature dropped from the turn", "((u[0].numel() - 1) * temperature)", "(u[0].numel() - 1)",
         (S + "test_microcanonical.py -k one_",)),
        ("noise of a direction not shared out", "per_chain(gained * x[0].numel() ** -0.5, z)", "per_chain(gained, z)",
         (S + "test_microcanonical.py -k one_", S + "test_microcanonical.py -k forgotten")),
        ("directions forgotten half as fast", "decay(step_size / decoherence_length)",
         "decay(0.5 * step_size / decoherence_length)",
         (S + "test_microcanonical.py -k one_", S + "test_microcanonical.py -k forgotten")),
        ("moves in the mass's units inverted", "mass.velocity(mass.momentum(u))", "mass.momentum(u)",
         (S + "test_microcanonical.py -k one_",)),  # adjusted, exact whatever it does
    ]),
    *mutants_of("GradientDescent", "samplers/descent.py", (S + "test_descent.py",), [
        ("uphill", "-per_chain(step_size, state.x), target.gradient(state.x))",
         "per_chain(step_size, state.x), target.gradient(state.x))"),
    ]),
    *mutants_of("NesterovDescent", "samplers/descent.py", (S + "test_descent.py",), [
        ("no look ahead", "target.gradient(state.x + carried)", "target.gradient(state.x)"),
        ("no momentum", "velocity = add_scaled(carried,", "velocity = add_scaled(0 * carried,"),
        ("uphill", "-per_chain(step_size, state.x), target.gradient(state.x + carried)",
         "per_chain(step_size, state.x), target.gradient(state.x + carried)"),
    ]),
    *mutants_of("transformed models", "core/transformed.py", (C + "test_transformed.py -k 'mass_of or chain_rule'",), [
        ("log-Jacobian dropped from the energy", "torch.inf, energy - log_det)", "torch.inf, energy)"),
        ("sign of the log-Jacobian", "torch.inf, energy - log_det)", "torch.inf, energy + log_det)"),
        ("sign of the log-Jacobian beside the gradient", "energy, log_det.detach()", "energy, -log_det.detach()",
         (C + "test_transformed.py -k chain_rule", C + "test_transformed.py -k 'any_size and HamiltonianMonteCarlo'")),
        ("sign of the log-Jacobian in the gradient", "-torch.ones_like(log_det)", "torch.ones_like(log_det)",
         (C + "test_transformed.py -k chain_rule",)),
        ("sign of the volume of a density pushed forward", "+ sum_event(log_det)", "- sum_event(log_det)",
         (C + "test_transformed.py -k pushed", C + "test_composite.py")),
        ("determinant of a linear map inverted", ".logabsdet\n", ".logabsdet.neg()\n",
         (C + "test_transformed.py -k pushed",)),
    ]),
    *mutants_of("transformed models", "core/supports.py",
                (C + "test_transformed.py -k mass_of", C + "test_transformed.py -k log_jacobian"), [
        ("Jacobian of an interval: half of the logistic's", "logsigmoid(z) + logsigmoid(-z)", "logsigmoid(z)"),
        ("Jacobian of an interval: width", " + self._log_width)", ")"),
        ("Jacobian of a simplex: of the last piece too", "log_x[..., :-1].sum(-1)", "log_x.sum(-1)"),
        ("an interval with its bounds", "(x > self.lower) & (x < self.upper)", "x == x",
         (C + "test_transformed.py -k rounds",)),
        ("Jacobian of an ordered vector: one term too many", "return z[..., 1:].sum(-1)", "return z.sum(-1)"),
        ("Jacobian of a correlation matrix: of its factor only", "(z, factor) + outer", "(z, factor)"),
        ("Jacobian of a correlation matrix: powers off by one", "torch.arange(n - 1, -1, -1", "torch.arange(n, 0, -1"),
    ]),
    *mutants_of("transformed models", "core/bijections.py", (C + "test_transformed.py -k mass_of",), [
        ("Jacobian of blocks: sign", "total = total + part", "total = total - part"),
    ]),
    *mutants_of("transformed models", "core/markov.py",
                (C + "test_transformed.py -k 'shapes_are_the_users and Langevin'",), [
        ("reported energies in the wrong volume", "own + sum_event(transform", "own - sum_event(transform"),
    ]),
    *mutants_of("warm-up", "samplers/estimation.py", (S + "test_warmup.py -k dual_averaging",), [
        ("dual averaging: sign of the error", "(self.target - acceptance)", "(acceptance - self.target)"),
        ("dual averaging: away from the target", "self.mu - math.sqrt", "self.mu + math.sqrt"),
        ("dual averaging: a plain average", "self.t**-self.kappa", "self.t**-1"),
        ("pooled variance: shift of the mean dropped", " + off * off * (self.count * n / total)", "",
         (S + "test_warmup.py -k pooled",)),
        ("pooled covariance: shift of the mean dropped", " + torch.outer(off, off) * (self.count * n / total)", "",
         (S + "test_warmup.py -k pooled",)),
        ("first mass without its root", "(covariance / slopes.covariance).sqrt()",
         "(covariance / slopes.covariance)", (S + "test_warmup.py -k first_mass",)),
    ]),
    *mutants_of("warm-up", "samplers/warmup.py", (S + "test_warmup.py",), [
        ("diagonal mass inverted", "return (1 / covariance).view(event)", "return covariance.view(event)",
         (S + "test_warmup.py -k 'first_mass or thousandth'",)),
        ("dense mass inverted", "torch.cholesky_inverse(torch.linalg.cholesky(covariance))", "covariance",
         (S + "test_warmup.py -k dense_mass_is",)),
        ("lost chains stay where they are", "state = self._restart_lost(state)", "self._restart_lost(state)",
         (S + "test_lost_chains.py",)),
        ("a bound on lost chains that forgets the dimension", "20 + 14 * state.x[0].numel()", "20",
         (S + "test_lost_chains.py -k bound",)),
        ("chains of different targets are compared", "and len(value) == n_chains", "and False",
         (S + "test_lost_chains.py -k conditions",)),
        ("first step size: kinetic energy dropped", "gain = kinetic(metric, q, dtype) - kinetic(metric, p, dtype)",
         "gain = 0.0", (FORMULAS + "warm_up_begins",)),
    ]),
]  # fmt: skip
