"""The attacks that are known, by number: what tries each, what shows that it could fail, what waits.

`by` are the tests of the attack, `mirror` those in which the same act succeeds, because the guard is
off or because it is allowed; `SAME` where the test of the attack does both.  Every test of `tests/attacks`
runs on the cold and on the warm path of a started server, asks for a neighbour's answer, and counts
afterwards what is left (`conftest.py`).  `below` says why a case is tried below the API.  Names are
relative to `tests`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SAME: Final = "the same test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case.  `waits` is the route of a feature that is not there yet, or words for one that has none."""

    what: str
    by: tuple[str, ...] = ()
    mirror: tuple[str, ...] = ()
    below: str = ""
    waits: str = ""


def _in(module: str, names: str) -> tuple[str, ...]:
    return tuple(f"{module}.py::test_{name}" for name in names.split())


def _here(module: str, names: str) -> tuple[str, ...]:
    return _in(f"attacks/test_{module}", names)


_REFUSALS = _here(
    "kernel",
    "everything_forbidden_is_refused everything_forbidden_is_refused_to_a_shell_command",
)
_UNFILTERED = _in(
    "sandbox/test_attacks", "the_filter_is_what_refuses_it with_capabilities_it_would_succeed"
)
_LOOK = _here("kernel", "what_a_program_finds what_a_shell_command_finds")
_OUTSIDE = _in("sandbox/test_inside", "outside_it_does_not_hold without_the_masks_the_host_shows")
_LINKS = _here("files", "no_link_leads_the_server_out") + _here(
    "vms", "no_link_of_a_vm_leads_the_server_out"
)
_SPOKEN = "the broker serves the boxes of both paths alike; names and servers are made up for it"

CASES: Final[Mapping[int, Case]] = {
    1: Case(
        what="fork bombs",
        by=_here("processes", "a_bomb_ends_at_the_deadline processes_are_counted"),
        mirror=_here("processes", "processes_are_counted"),
    ),
    2: Case(
        what="who detaches and ignores signals",
        by=_here("processes", "who_detached_dies_with_the_run")
        + _here("output", "time_that_is_up_is_told_within_a_bound")
        + _here("vms", "nothing_but_files_lasts"),
        mirror=_here("processes", "outside_who_detached_goes_on"),
    ),
    3: Case(
        what="children that hold the streams open",
        by=_here("processes", "who_detached_dies_with_the_run"),
        mirror=_here("processes", "outside_who_detached_goes_on"),
    ),
    4: Case(
        what="stopped, and waiting uninterruptibly",
        by=_here("processes", "what_cannot_be_told_to_end_is_killed"),
        mirror=_here("processes", "outside_it_is_not_moved_by_a_word"),
    ),
    5: Case(
        what="busy loops on every core",
        by=_here("processes", "busy_loops_hold_up_neither_others_nor_the_end_of_the_same_session"),
        mirror=_in("sandbox/test_attacks_floods", "more_cpu_is_used_where_more_is_allowed"),
    ),
    6: Case(
        what="signals to everyone, to process 1, by every way",
        by=_here("processes", "signals_stay_in_the_box")
        + _in("sandbox/test_attacks", "other_boxes_processes_are_out_of_reach"),
        mirror=(SAME,),
    ),
    7: Case(
        what="orphans and ten thousand zombies",
        by=_here("processes", "orphans_are_reaped ten_thousand_zombies"),
        mirror=_here("processes", "processes_are_counted"),
    ),
    8: Case(
        what="limits, priorities, schedulers, affinity",
        by=_REFUSALS
        + _here("processes", "priorities_are_the_programs_own_business_downwards")
        + _LOOK,
        mirror=_OUTSIDE + _here("processes", "priorities_are_the_programs_own_business_downwards"),
    ),
    9: Case(
        what="descriptors and what the kernel counts by user",
        by=_here(
            "processes",
            "what_one_box_hoards_another_has descriptors_run_out_for_the_program_alone",
        )
        + _REFUSALS,
        mirror=_in(
            "sandbox/test_attacks_resources",
            "what_the_kernel_counts_by_user_is_each_boxs_own descriptors_run_out",
        ),
    ),
    10: Case(
        what="inherited alarms",
        by=_here("processes", "no_alarm_is_inherited"),
        mirror=_here("processes", "outside_an_alarm_is_inherited"),
    ),
    11: Case(
        what="memory bombs",
        by=_here("memory_disk", "memory_of_every_kind_is_counted memory_in_another_language"),
        mirror=(SAME,),
    ),
    12: Case(
        what="memory of other kinds",
        by=_here(
            "memory_disk",
            "memory_of_every_kind_is_counted shared_memory_has_a_size_of_its_own "
            "datagrams_that_wait_are_bounded",
        )
        + _in("sandbox/test_attacks_resources", "scratch_in_memory_is_memory"),
        mirror=(SAME,),
    ),
    13: Case(
        what="the run dies of its memory, whole and alone, and it is told",
        by=_here("memory_disk", "the_whole_run_dies_of_its_memory memory_of_every_kind_is_counted"),
        mirror=(SAME,),
    ),
    14: Case(
        what="a limit for each run",
        by=_here("memory_disk", "a_limit_is_each_runs_own"),
        mirror=(SAME,),
    ),
    15: Case(
        what="full disks",
        by=_here(
            "memory_disk",
            "a_full_disk_is_an_error_of_the_program a_full_disk_costs_no_file_of_the_session",
        )
        + _here("vms", "what_lasts_in_a_vm_is_bounded"),
        mirror=(SAME,),
    ),
    16: Case(
        what="fallocate",
        by=_here("memory_disk", "a_full_disk_is_an_error_of_the_program"),
        mirror=(SAME,),
    ),
    17: Case(
        what="inodes",
        by=_here("memory_disk", "inodes_run_out_for_the_program_alone"),
        mirror=(SAME,),
    ),
    18: Case(
        what="sparse files",
        by=_here("memory_disk", "a_hole_is_neither_read_nor_counted_as_space")
        + _here("files", "a_data_file_that_is_none"),
        mirror=(SAME,),
    ),
    19: Case(
        what="many links to one large file",
        by=_here("memory_disk", "links_do_not_multiply_a_file"),
        mirror=(SAME,),
    ),
    20: Case(
        what="deep and wide trees, odd names",
        by=_here("memory_disk", "trees_beyond_the_bounds odd_names")
        + _in(
            "sandbox/test_attacks_files",
            "very_deep_directories_are_removed many_files_are_removed_while_others_go_on "
            "many_files_of_one_box_do_not_slow_the_next odd_names_and_modes_are_removed",
        ),
        mirror=_here("memory_disk", "trees_beyond_the_bounds odd_names"),
    ),
    21: Case(
        what="files that change while they are downloaded",
        by=_here("memory_disk", "a_file_that_changes_while_it_is_downloaded"),
        mirror=(SAME,),
    ),
    22: Case(
        what="leftovers in places that all may write",
        by=_here(
            "memory_disk",
            "nothing_is_left_in_places_that_all_may_write no_byte_of_an_earlier_run",
        )
        + _here("vms", "nothing_but_files_lasts"),
        mirror=(SAME,),
    ),
    23: Case(
        what="floods of output",
        by=_here("output", "a_flood_stops_at_the_cap"),
        mirror=_here("output", "output_up_to_the_cap_is_whole"),
    ),
    24: Case(
        what="one line of a gigabyte",
        by=_here("output", "a_flood_stops_at_the_cap"),
        mirror=_here("output", "output_up_to_the_cap_is_whole"),
    ),
    25: Case(
        what="floods of errors",
        by=_here("output", "a_flood_stops_at_the_cap"),
        mirror=_here("output", "output_up_to_the_cap_is_whole"),
    ),
    26: Case(
        what="interleaved streams",
        by=_here("output", "streams_are_kept_apart_and_in_order"),
        mirror=(SAME,),
    ),
    27: Case(
        what="bytes that are no text",
        by=_here("output", "odd_bytes_become_text"),
        mirror=(SAME,),
    ),
    28: Case(
        what="output that forges our own words",
        by=_here(
            "output",
            "output_cannot_pass_for_the_services_own_words there_is_nothing_to_say_to_the_launcher",
        ),
        mirror=_here("output", "the_forgery_would_be_believed a_named_socket_would_be_seen"),
    ),
    29: Case(
        what="readers that stall",
        by=_here("output", "a_reader_that_stalls"),
        mirror=(SAME,),
    ),
    30: Case(
        what="clients that leave",
        by=_here("output", "a_client_that_leaves_a_run a_client_that_leaves_an_execution"),
        mirror=_here("output", "a_client_that_leaves_a_run"),
    ),
    31: Case(
        what="ends that must not be told as success",
        by=_here("output", "an_end_is_told_as_it_was time_that_is_up_is_told_within_a_bound"),
        mirror=(SAME,),
    ),
    32: Case(
        what="limits that are none",
        by=_here("requests", "limits_and_values_that_are_none"),
        mirror=(SAME,),
    ),
    33: Case(
        what="bodies and heads that are bombs or hide another request",
        by=_here(
            "requests",
            "limits_and_values_that_are_none bodies_that_are_bombs "
            "a_request_inside_another_is_not_served",
        )
        + _here("vms", "a_body_names_no_file_of_the_server_and_no_other_request"),
        mirror=_here(
            "requests", "limits_and_values_that_are_none a_request_after_another_is_served"
        ),
    ),
    34: Case(
        what="paths that climb",
        by=_here("requests", "paths_out_of_a_session_are_none")
        + _here("vms", "no_path_leads_out_of_a_workspace"),
        mirror=(SAME,),
    ),
    35: Case(
        what="links out of the workspace",
        by=_LINKS + _here("files", "marks_of_the_overlay_cannot_be_forged"),
        mirror=(SAME,),
    ),
    36: Case(what="links as directories on the way", by=_LINKS, mirror=(SAME,)),
    37: Case(what="links over several hops, and magic ones", by=_LINKS, mirror=(SAME,)),
    38: Case(
        what="directories and links that are swapped while the server works",
        by=_here("files", "directories_that_turn_into_links_while_the_server_works")
        + _in("workspace/test_beneath", "a_directory_that_turns_into_a_link_and_back"),
        mirror=(SAME,),
    ),
    39: Case(
        what="hard links to files of others",
        by=_here("files", "nothing_of_others_can_be_linked no_link_leads_the_server_out"),
        mirror=(SAME,),
    ),
    40: Case(
        what="pipes, sockets, devices, and links to them",
        by=_here("files", "special_files_are_neither_read_nor_waited_for a_data_file_that_is_none"),
        mirror=(SAME,),
    ),
    41: Case(
        what="set-id bits, attributes, capabilities of files",
        by=_here(
            "files", "marks_that_give_rights_are_not_kept marks_of_the_overlay_cannot_be_forged"
        )
        + _here("packages", "a_layer_of_odd_files")
        + _REFUSALS,
        mirror=_here("files", "marks_that_give_rights_are_not_kept"),
    ),
    42: Case(what="collecting through a link", by=_LINKS, mirror=(SAME,)),
    43: Case(what="owner and mode through a link", by=_LINKS, mirror=(SAME,)),
    44: Case(
        what="mount points removed or replaced",
        by=_here("files", "mount_points_stay"),
        mirror=(SAME,),
    ),
    45: Case(
        what="archives with odd members: the layers of setups are the only ones that there are",
        by=_here("packages", "a_layer_of_odd_files code_of_packages_runs_in_a_box")
        + _in("sessions/test_boxes", "a_hostile_layer_shows_nothing_of_the_host"),
        mirror=_in("sessions/test_boxes", "what_a_setup_left_is_at_the_same_paths"),
        waits="archives that a client uploads",
    ),
    46: Case(
        what="archives that grow",
        by=_here("packages", "a_layer_counts_as_what_it_unpacks_to"),
        mirror=(SAME,),
    ),
    47: Case(
        what="code that runs while packages are installed",
        by=_here("packages", "code_of_packages_runs_in_a_box a_layer_of_odd_files"),
        mirror=(SAME,),
    ),
    48: Case(
        what="names of packages that are options, and caches that are poisoned",
        by=_here("packages", "no_entry_is_an_option_or_a_path nobody_poisons_what_others_share")
        + _in("sessions/test_modules", "a_run_changes_its_own_copy_only"),
        mirror=_here(
            "packages", "no_entry_is_an_option_or_a_path nobody_poisons_what_others_share"
        ),
    ),
    49: Case(
        what="code that runs while a program is compiled",
        by=_in("e2e/test_setups", "compiling_reads_and_runs_nothing_of_others"),
        mirror=(SAME,),
    ),
    50: Case(
        what="chance, tokens and ids that copies share",
        by=_here("tenants", "what_must_be_random_is copies_of_a_session_share_no_name")
        + _in(
            "sandbox/test_warm",
            "what_must_be_random_is hash_seed_and_addresses_are_shared_for_so_many_runs_only",
        ),
        mirror=_here("tenants", "what_must_be_random_is"),
        waits="snapshots of running boxes",
    ),
    51: Case(what="namespaces made or entered", by=_REFUSALS, mirror=_UNFILTERED),
    52: Case(what="mounts", by=_REFUSALS + _LOOK, mirror=_UNFILTERED + _OUTSIDE),
    53: Case(
        what="chroot, and directories that were inherited",
        by=_REFUSALS + _here("kernel", "no_way_up_through_a_descriptor no_descriptor_is_inherited"),
        mirror=_UNFILTERED + _here("kernel", "no_descriptor_is_inherited"),
    ),
    54: Case(what="control groups", by=_LOOK + _REFUSALS, mirror=_OUTSIDE),
    55: Case(
        what="what /proc and /sys tell and take",
        by=_LOOK + _REFUSALS + _here("kernel", "pages_of_shared_files_are_copied_when_written"),
        mirror=_OUTSIDE + _here("kernel", "pages_of_shared_files_are_copied_when_written"),
    ),
    56: Case(what="core files", by=_here("output", "no_core_file_is_left"), mirror=(SAME,)),
    57: Case(what="memory and descriptors of other processes", by=_REFUSALS, mirror=_UNFILTERED),
    58: Case(
        what="every system call, and those of other tables",
        by=_here(
            "kernel",
            "every_system_call_has_its_verdict a_program_from_memory_has_no_more_rights",
        )
        + _REFUSALS,
        mirror=_in("sandbox/test_syscalls", "every_call_in_a_box other_tables_in_a_box"),
    ),
    59: Case(what="families of sockets", by=_REFUSALS + _LOOK, mirror=_UNFILTERED),
    60: Case(
        what="sockets of the service",
        by=_here("output", "there_is_nothing_to_say_to_the_launcher")
        + _here("kernel", "no_descriptor_is_inherited what_a_program_finds"),
        mirror=_here("output", "a_named_socket_would_be_seen"),
    ),
    61: Case(
        what="programs and files that give rights",
        by=_here(
            "kernel",
            "programs_that_give_rights_are_inert a_program_from_memory_has_no_more_rights "
            "boxes_run_as_nobody_of_the_host",
        )
        + _in("sandbox/test_attacks", "setuid_programs_are_inert"),
        mirror=_in("sandbox/test_attacks", "setuid_programs_are_inert")
        + _here("kernel", "programs_that_give_rights_are_inert"),
    ),
    62: Case(what="devices", by=_REFUSALS + _LOOK, mirror=_OUTSIDE),
    63: Case(
        what="variables that reach a helper of the server",
        by=_here("tenants", "variables_reach_the_program_and_nobody_else")
        + _here("requests", "limits_and_values_that_are_none"),
        mirror=(SAME,),
    ),
    64: Case(
        what="secrets of the server in environment, memory, files, errors",
        by=_here("kernel", "no_secret_of_the_server_is_anywhere no_descriptor_is_inherited")
        + _here("requests", "errors_name_no_path_and_no_secret")
        + _LOOK,
        mirror=_here("kernel", "no_secret_of_the_server_is_anywhere no_descriptor_is_inherited"),
    ),
    65: Case(
        what="names and ids of the host",
        by=_here("kernel", "the_host_is_not_named"),
        mirror=(SAME,),
    ),
    66: Case(
        what="clocks",
        by=_REFUSALS,
        mirror=_in("sandbox/test_syscalls", "every_call_in_a_box"),
    ),
    67: Case(
        what="side channels of the hardware: told in SECURITY.md, not prevented",
        by=_in("attacks/test_cases", "what_is_not_prevented_is_told"),
        mirror=(SAME,),
    ),
    68: Case(
        what="without network",
        by=_here("network", "a_program_without_network_reaches_nothing"),
        mirror=_here("network", "what_the_operator_excepts_is_reached"),
    ),
    69: Case(
        what="places that are not public",
        by=_here(
            "network",
            "a_program_with_network_reaches_no_place_that_is_not_public boxes_reach_no_other_box",
        ),
        mirror=_here("network", "what_the_operator_excepts_is_reached"),
    ),
    70: Case(
        what="names that carry something out",
        by=_here("network", "names_and_datagrams_carry_nothing_out")
        + _in("egress/test_broker_dns", "other_records_are_refused_unasked"),
        mirror=_in("egress/test_broker_dns", "only_addresses_a_box_may_connect_to_are_told"),
    ),
    71: Case(
        what="names that change their address",
        by=_in(
            "egress/test_broker_reach",
            "a_name_is_looked_up_once_a_connection_and_judged_by_that_answer "
            "of_many_addresses_the_blocked_are_left_out_and_the_dead_passed_over",
        ),
        mirror=_in("egress/test_broker_reach", "a_public_server_is_reached_by_name_and_by_address"),
        below=_SPOKEN,
    ),
    72: Case(
        what="forged names in TLS and HTTP, tunnels, redirects, wildcards",
        by=_in(
            "egress/test_broker_registries",
            "registries_reaches_its_hosts_and_no_other_name_for_them "
            "the_host_header_that_leaves_is_the_one_that_was_checked "
            "a_redirect_to_a_host_that_is_not_allowed_ends_there "
            "a_tunnel_to_an_allowed_host_cannot_ask_for_another "
            "plain_http_inside_a_registries_tunnel_is_judged_request_by_request "
            "registries_judges_redirected_tls_by_server_name_and_address",
        )
        + _in("egress/test_policy", "host_rules one_spelling_of_each_host"),
        mirror=_in("egress/test_broker_registries", "https_passes_untouched"),
        below=_SPOKEN,
    ),
    73: Case(
        what="IPv6, ICMP, QUIC",
        by=_here(
            "network",
            "a_program_with_network_reaches_no_place_that_is_not_public "
            "names_and_datagrams_carry_nothing_out",
        )
        + _REFUSALS,
        mirror=_here("network", "what_the_operator_excepts_is_reached") + _UNFILTERED,
    ),
    74: Case(
        what="neighbours on the network, routes, addresses",
        by=_here("network", "boxes_reach_no_other_box")
        + _REFUSALS
        + _in(
            "egress/test_broker_limits", "one_box_that_takes_all_places_leaves_the_other_its_own"
        ),
        mirror=_here("network", "boxes_reach_no_other_box") + _UNFILTERED,
        waits="a bound on bandwidth",
    ),
    75: Case(
        what="addresses under which servers in boxes are reached",
        by=_here(
            "proxy",
            """the_key_opens_and_stays_outside a_session_opens_no_other
            no_port_is_one_outside_of_the_box no_word_of_a_request_leads_elsewhere
            requests_are_framed_once nothing_is_said_for_the_whole_origin a_flood_is_held_back
            a_body_is_held_back headers_without_end_are_not_read
            a_socket_that_stays_ends_with_its_run
            what_stored_code_says_is_no_word_of_the_server""",
        )
        + _in("sandbox/test_dial", "the_ways_out_are_no_ways_in each_box_has_its_own_ports"),
        mirror=(SAME,),
    ),
    76: Case(
        what="secrets that only the way out knows",
        by=_in(
            "egress/test_broker_upstream",
            "the_operators_proxy_gets_its_credentials_and_the_box_never_sees_them",
        ),
        mirror=(SAME,),
        below=_SPOKEN,
        waits="secrets that are put in for one host",
    ),
    77: Case(
        what="ids of others",
        by=_here(
            "requests",
            "ids_of_no_session_lead_nowhere without_the_key_nothing_is_told "
            "generated_ids_cannot_be_guessed",
        )
        + _here("vms", "names_of_vms_open_nothing_else"),
        mirror=_here("requests", "ids_of_no_session_lead_nowhere without_the_key_nothing_is_told"),
    ),
    78: Case(
        what="races, and making and deleting by the thousand",
        by=_here(
            "tenants",
            "double_deletes_cancels_and_creates sessions_made_and_deleted_leave_nothing",
        )
        + _in("sandbox/test_crash", "boxes_leave_nothing"),
        mirror=_in("sandbox/test_crash", "the_count_sees_an_open_box")
        + _here("cases", "what_is_left_would_be_seen"),
    ),
    79: Case(
        what="two runs of one session at once",
        by=_here("tenants", "two_runs_of_a_session_never_meet"),
        mirror=(SAME,),
    ),
    80: Case(
        what="whoever is killed in the middle of a run",
        by=_here(
            "crash",
            "the_launcher_is_killed_in_the_middle_of_a_run "
            "the_standing_interpreter_is_killed_in_the_middle_of_a_run "
            "the_server_is_killed_again_and_again",
        )
        + _in("e2e/test_lifecycle", "a_kill_in_the_middle_of_a_run")
        + _in("sandbox/test_crash", "nothing_of_a_box_outlives_the_server"),
        mirror=_in("e2e/test_lifecycle", "what_a_server_has_would_be_found"),
    ),
    81: Case(
        what="one client that asks for too much",
        by=_here(
            "tenants",
            "one_session_full_of_runs_starves_no_other a_flood_of_executions_leaves_room",
        )
        + _here("neighbours", "four_bombs_at_once_and_a_neighbour_is_served"),
        mirror=_here("tenants", "one_session_full_of_runs_starves_no_other"),
    ),
    82: Case(
        what="ways around a quota",
        by=_here("tenants", "nobody_gets_more_than_a_quota")
        + _here("vms", "what_lasts_in_a_vm_is_bounded"),
        mirror=(SAME,),
    ),
    83: Case(
        what="what a box made ahead knows of others",
        by=_here(
            "tenants",
            "what_one_program_spoils_the_next_does_not_find "
            "no_byte_of_a_former_program_is_in_memory the_path_is_the_one_it_is_called",
        )
        + _in("sandbox/test_inside_ahead", "no_secret_of_the_server_is_in_memory"),
        mirror=_here(
            "tenants",
            "what_one_program_spoils_the_next_does_not_find "
            "no_byte_of_a_former_program_is_in_memory",
        ),
    ),
    84: Case(
        what="what clients write into the log",
        by=_here("requests", "nobody_writes_lines_into_the_log"),
        mirror=(SAME,),
        waits="metrics",
    ),
    85: Case(
        what="interpreters that are abused",
        by=_here("tenants", "an_interpreter_that_is_abused_harms_its_own_run_alone")
        + _here("output", "there_is_nothing_to_say_to_the_launcher"),
        mirror=(SAME,),
    ),
}
"""By the number under which the cases are known."""
