/* The C header, as C11: a program in C links to the library. */
#include <pe_runtime.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    const pe_metric_options options = PE_METRIC_OPTIONS_INIT;
    const pe_score_options score_options = PE_SCORE_OPTIONS_INIT;
    const pe_image image = PE_IMAGE_INIT;
    pe_metric* metric = NULL;
    if (options.size != sizeof options || score_options.background[2] != 128 || image.layout != PE_RGB)
        return 1;
    if (pe_abi_version() != PE_ABI_VERSION) return 1;
    if (pe_metric_open("/nonexistent.onnx", &options, &metric) != PE_UNREADABLE || metric != NULL) return 1;
    if (strstr(pe_error_text(NULL), "/nonexistent.onnx: ") == NULL) return 1;
    if (strcmp(pe_status_name((pe_status)99), "unknown status") != 0) return 1;
    printf("%s\n", pe_error_text(NULL));
    return 0;
}
