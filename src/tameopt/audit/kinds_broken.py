"""Kinds of verdict in which something is broken: each function returns a candidate or None."""

from __future__ import annotations

import math

from tameopt.audit.scene import Candidate, Scene


def not_trained(scene: Scene) -> Candidate | None:
    """No step was taken."""
    if scene.history is not None and scene.history.steps_done > 0:
        return None
    return Candidate(
        "not trained",
        "No step was taken, so nothing can be said about where training goes.",
        (),
        "high",
        "Train it: tameopt audit TARGET, or tame.watch in your own loop.",
        "a record that the audit can read",
    )


def diverged(scene: Scene) -> Candidate | None:
    """The loss blew up: the step is too large. Or a number stopped being finite without a blow-up before it."""
    found, broken = scene.holding("run.diverged"), scene.holding("run.first_non_finite")
    if found is None and broken is None:
        return None
    assert scene.history is not None
    grown = _grown(scene)
    if grown > 10.0:  # our choice: ten times its start is a blow-up, not an accident
        action, effect = smaller_step(scene)
        step = int(scene.history.steps_done)
        return Candidate(
            "diverged",
            f"The loss blew up within {step:,} steps, to {grown:.3g} times its start: the step {scene.alpha:.4g} is "
            "too large.",
            scene.said("run.diverged", "step.stable", "run.first_non_finite"),
            "high",
            action,
            effect,
        )
    if broken is None:
        return None
    witness = scene.witness("run.first_non_finite")
    place = f"{witness.get('where', 'a number')}: {witness.get('what', '')}".rstrip(": ")
    return Candidate(
        "non-finite",
        f"A number stopped being finite at step {int(witness.get('step', -1)):,}, first in the {place}; the loss had "
        "not blown up before.",
        scene.said("run.first_non_finite", "run.finite"),
        "high",
        _MEND.get(str(witness.get("where")), "Look at the batch and the operations of that step."),
        "finite numbers; the step size is not the cause",
    )


_MEND = {
    "input": "Mend the data: a value in this batch is not finite.",
    "activation": "Look at that layer: a logarithm or division by 0, or an exponential that overflows.",
    "loss": "Look at the loss: the outputs are finite, so it takes a logarithm of 0 or divides by 0.",
    "gradient": "Look at the derivative: the loss is finite, so a root or norm at 0, or a masked NaN, is behind it.",
    "optimizer state": "Reset the optimizer's state and look at the largest gradient before it.",
    "parameter": "Take up the last checkpoint with finite parameters.",
}


def _grown(scene: Scene) -> float:
    """The largest finite loss against that of the start, or the norm of theta where that has grown more.

    Gradients are no witness: next to a singularity they grow although every value is small.
    """
    assert scene.history is not None
    ratios = [0.0]
    for name in ("loss", "full_loss"):
        values = scene.history.series(name).values
        if values.size > 1:
            ratios.append(float(abs(values).max()) / max(abs(float(values[0])), 1e-12))
    run = scene.history.run
    saved = run.vector_steps()
    if saved.size > 1:
        first, last = (float(run.vector(int(step)).double().norm()) for step in (saved[0], saved[-1]))
        if math.isfinite(last):
            ratios.append(last / max(first, 1e-12))
    return max(ratios)


def smaller_step(scene: Scene) -> tuple[str, str]:
    """(what to do, its predicted effect): half the stability limit at the first point measured, else a tenth.

    The limit is that of the loss as trained. Where it lies inside the error of its curvature, its lower end counts;
    where the curvature may as well be 0 there is none.
    """
    limit, first = scene.limit.limit, next(iter(scene.step_ratios), None)
    tenth = f"lr {scene.alpha:.4g} -> {scene.alpha / 10:.3g}"
    if limit is None or first is None or scene.limit.preconditioner or not first.ratio_at_most > 0:
        return tenth, "a tenth of the step; how much is enough was not measured"
    if first.ratio_at_least <= 0:
        return tenth, "a tenth of the step; the stability limit lies inside the error of the curvature as trained"
    bound, unstable = first.alpha / first.ratio_at_most, first.alpha / first.ratio_at_least
    if bound / 2 >= scene.alpha:
        return tenth, "a tenth of the step; how much is enough was not measured"
    top = first.ratio_at_most * limit / first.alpha - scene.limit.decay
    between = ""
    if unstable > 1.02 * bound:  # our choice: two percent of a step are not worth a sentence
        between = f", unstable above {unstable:.3g}, undecided between"
    of = f" of {scene.stepped_on}" if scene.stepped_on else ""
    return (
        f"lr {scene.alpha:.4g} -> {bound / 2:.3g}",
        f"no blow-up at the start: {scene.limit.method} is stable there below {bound:.3g}{between} "
        f"(lambda_max {'=' if not between else 'up to'} {top:.4g}{of}); "
        "noise and a loss that grows steeper later lower the limit",
    )


def resume_jump(scene: Scene) -> Candidate | None:
    """The loss jumps where the run was resumed."""
    found = scene.holding("run.resume_jump")
    if found is None:
        return None
    witness = scene.witness("run.resume_jump")
    return Candidate(
        "resume discontinuity",
        f"The loss jumped {float(witness.get('ratio', math.nan)):.3g}-fold where the run was resumed, at step "
        f"{int(witness.get('step', -1)):,}.",
        (found.statement,),
        "high",
        "Save and restore the optimizer, the scheduler, the gradient scaler, the random state and the data order.",
        "no jump at the next resumption",
    )


def dead_units(scene: Scene) -> Candidate | None:
    """A layer of rectifiers is dead, wholly or in so large a part that F stands still or is at chance level."""
    found = scene.holding("units.dead")
    if found is None:
        return None
    stuck = scene.holding("run.chance_level") or scene.holding("run.plateau") or scene.holding("run.noise_floor")
    if found.value < 1.0 and stuck is None:
        return None
    return Candidate(
        "dead units",
        f"{100 * found.value:.3g}% of the units of one rectifier layer are dead; the network has "
        + ("become a constant." if found.value == 1.0 else "lost that much of its width."),
        (found.statement, *scene.said("run.chance_level", "run.plateau")),
        "high" if found.value == 1.0 else "medium",
        "Start again with a smaller step or a warm-up (a large early step pushed the biases down), or use LeakyReLU.",
        "units that fire for some samples, and a loss below chance level",
    )


def chance_level(scene: Scene) -> Candidate | None:
    """The loss is what a constant prediction reaches, and training has not moved it from there."""
    found = scene.holding("run.chance_level")
    # every classifier starts near chance level: a few steps say nothing (our choice: fifty)
    if found is None or scene.history is None or scene.history.steps_done < 50:
        return None
    witness = scene.witness("run.chance_level")
    if witness.get("outputs_are_probabilities"):
        action, effect = (
            "Remove the softmax from the model: the loss applies its own.",
            "the loss leaves ln K; with softmax twice it cannot come near 0",
        )
    elif scene.holding("step.too_small") is not None:
        bound = float(scene.witness("step.too_small").get("allowed", math.nan))
        action = f"lr {scene.alpha:.4g} -> {bound / 2:.3g}"
        effect = "the loss leaves chance level: the step is far below what curvature allows"
    elif float(witness.get("output_spread", 1.0)) < 1e-3:
        action, effect = (
            "Look for what makes the outputs constant: saturated or dead units, inputs that are all alike, "
            "a zeroed layer.",
            "outputs that differ between inputs; until then no step size helps",
        )
    else:
        action, effect = (
            "Check that labels belong to their inputs, and try ten times the step.",
            "a loss below the labels' entropy",
        )
    return Candidate(
        "chance level",
        f"The loss is at chance level: F = {float(witness['F']):.4g}, and a constant prediction reaches "
        f"{float(witness['label_entropy']):.4g}.",
        (found.statement, *scene.said("step.too_small", "run.plateau", "units.dead")),
        "high",
        action,
        effect,
    )


def late_rise(scene: Scene) -> Candidate | None:
    """F had fallen and rose again: the step outgrew the curvature (SGD), or the second moments decayed (Adam)."""
    found = scene.holding("run.rises")
    if found is None:
        return None
    witness = scene.witness("run.rises")
    least, end, step = (float(witness[name]) for name in ("least", "end", "step_of_least"))
    if not scene.adaptive:
        action, effect = smaller_step(scene)
        return Candidate(
            "step too large",
            f"F fell to {least:.4g} by step {step:,.0f} and rose to {end:.4g} since: the step "
            f"{scene.alpha:.4g} is too "
            "large for where it is.",
            (found.statement, *scene.said("step.stable", "gradient.lipschitz")),
            "high" if scene.refuting("step.stable") is not None else "medium",
            action,
            effect,
        )
    return Candidate(
        "late rise",
        f"F fell to {least:.4g} by step {step:,.0f} and rose to {end:.4g} since, under {scene.optimizer}: "
        f"as the gradients "
        "shrink so do its second moments, and the effective step lr/sqrt(v) grows.",
        (found.statement, *scene.said("step.stable", "run.spikes")),
        "medium",
        f"lr {scene.alpha:.4g} -> {scene.alpha / 10:.3g} from step {step:,.0f} on (a decreasing schedule), "
        f"or a larger eps.",
        f"F stays near {least:.4g}",
    )


def spikes(scene: Scene) -> Candidate | None:
    """The loss jumps up and comes back: lately, or often."""
    found = scene.holding("run.spikes")
    if found is None or scene.history is None:
        return None
    witness = scene.witness("run.spikes")
    late = float(witness.get("last_end", 0)) > 0.3 * scene.history.steps_done
    if not (late or found.value >= 3):
        return None
    batch = "culprit_step" in witness and "set it off" in found.statement
    action = (
        f"Look at the batch of step {int(witness['culprit_step']):,}, and clip the gradient's norm."
        if batch
        else f"Clip the gradient's norm, or lr {scene.alpha:.4g} -> {scene.alpha / 2:.3g}."
    )
    return Candidate(
        "spikes",
        f"The loss spiked {found.value:.0f} time{'s' if found.value > 1 else ''}, up to "
        f"{float(witness.get('ratio', math.nan)):.3g} times its surroundings, and came back.",
        (found.statement, *scene.said("step.stable")),
        "high",
        action,
        "an update no larger than usual at such steps, hence no spike",
    )


def epoch_steps(scene: Scene) -> Candidate | None:
    """The loss falls where epochs begin."""
    found = scene.holding("run.epoch_steps")
    if found is None:
        return None
    return Candidate(
        "epoch-aligned steps",
        f"{100 * min(found.value, 1.0):.3g}% of the fall of the training loss happens where an epoch "
        f"begins: the network "
        "remembers the samples it has seen, rather than improving between them.",
        (found.statement,),
        "high",
        "Watch the loss on held-out data before training on: this is memorisation, not an error of the optimizer.",
        "a training loss that goes on falling in steps, a held-out loss that does not",
    )
