# What limits the harm of a defect that is left, in all that is built: checks of the stack and of the copying functions
# of the C library, targets of indirect jumps, and addresses that nothing can write to once a library is loaded.
# Sanitizers bring checks of their own, which some of these would hide.
set(pe_hardening)
if(NOT PE_SANITIZE)
    include(CheckCXXCompilerFlag)
    include(CheckLinkerFlag)
    foreach(flag IN ITEMS -fstack-protector-strong -fcf-protection -mbranch-protection=standard)
        string(MAKE_C_IDENTIFIER "PE_HAS${flag}" variable)
        check_cxx_compiler_flag(${flag} ${variable})
        if(${variable})
            list(APPEND pe_hardening ${flag})
        endif()
    endforeach()
    # Without optimisation the C library only warns that it checks nothing.
    list(APPEND pe_hardening "$<$<NOT:$<CONFIG:Debug>>:-U_FORTIFY_SOURCE>" "$<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=2>")
    foreach(word IN ITEMS relro now)
        check_linker_flag(CXX "LINKER:-z,${word}" PE_HAS_LINKER_${word})
        if(PE_HAS_LINKER_${word})
            add_link_options("LINKER:-z,${word}")
        endif()
    endforeach()
endif()
foreach(flag IN LISTS pe_hardening)
    add_compile_options("$<$<COMPILE_LANGUAGE:CXX,C>:${flag}>" "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${flag}>")
endforeach()

# Programs, too, at addresses that change with each start.
include(CheckPIESupported)
check_pie_supported()

# pe_exports(TARGET FILE): a library exports what the version script says and nothing else, so that it shares no
# function with other libraries of the process, such as templates of the standard library.
function(pe_exports target file)
    if(NOT APPLE)
        target_link_options(${target} PRIVATE "LINKER:--version-script=${file}")
        set_target_properties(${target} PROPERTIES LINK_DEPENDS "${file}")
    endif()
endfunction()
