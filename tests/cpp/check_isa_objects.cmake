# Objects that are compiled for one instruction set define nothing that the linker could take for the definition of
# another file's: such a function would then run on machines without the set.
#   cmake -D NM=nm "-D OBJECTS=a.o;b.o" -P check_isa_objects.cmake
foreach(object IN LISTS OBJECTS)
    execute_process(COMMAND "${NM}" --defined-only "${object}" OUTPUT_VARIABLE symbols
                    COMMAND_ERROR_IS_FATAL ANY)
    # Weak and unique symbols: W, w, V, v, u. The namespace shows in the mangled name.
    string(REGEX MATCHALL "[0-9a-f]+ [WwVvu] [^\n]*" shared "${symbols}")
    foreach(symbol IN LISTS shared)
        if(NOT symbol MATCHES "2pe(8baseline|4avx2|6avx512)")
            message(SEND_ERROR "${object}: expected no shared definition, got ${symbol}")
        endif()
    endforeach()
endforeach()
