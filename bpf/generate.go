package bpf

//go:generate go tool -modfile=../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -type rf_settings -type rf_endpoint -type rf_quota -type rf_address -type rf_owner -type rf_cidr -type rf_failsafe -type rf_workload -type rf_table -type rf_rule_key -type rf_flow_key -type rf_flow -type rf_fragment_key -type rf_fragment -type rf_record -type rf_intent -type rf_sweep_args -type rf_adopt_args -type rf_counter kernel ringfence.c -- -O2 -g -mcpu=v3 -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate clang-19 -target bpfel -DRF_LAYOUT_TEST -O2 -g -mcpu=v3 -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu -c ringfence.c -o testdata/next_bpfel.o
//go:generate llvm-strip-19 -g testdata/next_bpfel.o
//go:generate go tool -modfile=../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -type rf_prefilter_settings -type rf_prefilter_count -type rf_denylist prefilter prefilter.c -- -O2 -g -mcpu=v3 -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
