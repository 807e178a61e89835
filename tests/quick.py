"""What the developer's daily check, `make quick`, leaves to `make test`, and why.

Quick runs what finds most in a second: unit tests, closed forms, properties, planted networks, walls, configuration,
and a narrow run from end to end. Besides the rows below it leaves out what is marked `slow`.
"""

LEFT_OUT = {
    # whole runs besides the one that all files share
    "depth": "whole runs of two and four layers; test_model has networks of any number of layers",
    "method_runs": "whole runs of one method each; test_methods and test_client_methods have the methods",
    "own_method::test_a_run_with_a_method_of_ones_own_is_resumed_exactly_and_with_it_only": "three whole runs",
    "simulation::test_side_by_side_is_one_by_one": "a whole run in another layout; test_local has the layouts",
    "studies_served": "the same once more where every client has a model of its own",
    "studies": "every study on stacks of models; test_single and test_sameness have what they share",
    "deciding::test_dense_models_trained_with_other_logits_are_searched_too": "a whole run of the second instrument",
    "environment": "whole runs and processes under unusual settings",
    "golden_decision": "replays what was recorded",
    # every file, method or layout once more
    "radix": "the thresholds of a GPU; test_pruning has those of a CPU",
    "sparse_layer": "a layer channel by channel; test_sparse_ops has the convolution, test_single the answers",
    "readout::test_single_precision_and_stacks_find_the_same": "the same solutions once more; closed forms are kept",
    "methods::test_seeds_beside_each_other_on_two_devices_are_seeds_one_by_one_and_two_rounds_are_compiled_once": (
        "every method once more on two devices"
    ),
    "methods::test_without_jit_a_step_is_the_same_to_the_last_bit": "every method once more, without a compiler",
    "abuse": "thousands of damaged copies; the refusals themselves are in test_results and test_resumable",
    "predictions": "every prediction on made-up results; test_claims and test_statistics have rules and intervals",
    "cli::test_another_kind_of_split_goes_with_every_preset": "every preset with every kind of split",
    "calibration": "refits of the mean; test_methods has calibration among all methods",
    "cli::test_bad_input": "fifty command lines; test_config has their rules",
    "client_methods::test_what_a_client_may_not_change_stays_bit_for_bit_and_the_rest_is_trained_and_pruned_alone": (
        "every such method in a training of its own"
    ),
    "gpu_ops": "the forms for a GPU; test_ops has the same on a CPU",
    "local::test_single_precision_is_double_precision_to_rounding": "every layout once more; `make numerical` has it",
    "readout::test_what_is_told_apart_without_an_error_stays_finite": "the same fit four times; closed forms are kept",
    "identity::test_seeds_of_a_drawn_split_are_joined_as_if_they_had_been_run_together": "draws every figure",
    "ops::test_stacked_is_one_by_one": "every form of a stack once more; test_local has stacks of clients",
    "similarity::test_a_thousand_clients": "the same sums with many clients",
    "studies_golden::test_command_refuses_in_one_line": "many command lines; test_studies has the refusals",
    # drawings, pages, commands and processes
    "figures": "draws every figure; what they are drawn from is tested by itself",
    "figure_choice": "draws figures",
    "figures_say": "draws every figure",
    "figures_whole": "draws every figure at full size",
    "report": "writes whole reports",
    "data_pages": "runs the commands of the documentation",
    "decisions_page": "runs the example of the documentation",
    "readme::test_commands_are_run_or_read": "reads every command of the documentation",
    "benchmarks": "benchmarks change nothing for a user",
    "cli::test_importing_loads_neither_tensorflow_datasets_nor_matplotlib": "processes of their own",
    "cli::test_files_are_utf8_wherever_they_are_written": "processes of their own",
    "peers": "other packages in processes of their own",
    "gpu_command": "processes of their own",
    "gpu_plan": "a compiler for another device",
    "experiments": "whole scripts of this repository",
    "experiments_methods": "a whole study of methods, cut short in many ways",
    "tables::test_a_sweep_runs_every_combination_once": "four runs",
    "resumable::test_determinism_is_checked_and_told": "rounds that are computed twice",
    "resumable::test_a_full_disk_or_a_failed_rename_is_one_line_and_resumable": "a run for every write",
    "resumable::test_killed_at_any_moment_around_any_write": "a run for every moment of a write",
}  # fmt: skip
"""{"FILE" or "FILE::TEST": why}: tests/test_FILE.py, or one test of it."""


def is_left_out(name: str) -> bool:
    """name: "FILE::TEST", without parameters."""
    return bool({name, name.split("::")[0]} & set(LEFT_OUT))
