/*
 * score METRIC.onnx REFERENCE.ppm DISTORTED.ppm
 *
 * Prints the score of two 8-bit RGB images (binary PPM), and the verdict where the metric carries a
 * threshold. Exit code: 0 passed or no threshold, 1 failed, 2 an error.
 */
#include <pe_runtime.h>
#include <stdio.h>
#include <stdlib.h>

/* The pixels of a binary PPM without comments, to be freed by the caller; NULL on failure. */
static unsigned char* read_ppm(const char* path, pe_image* image) {
    unsigned char* pixels = NULL;
    long width = 0, height = 0;
    FILE* file = fopen(path, "rb");
    if (file != NULL && fscanf(file, "P6 %ld %ld 255", &width, &height) == 2 && width > 0 && height > 0 &&
        width <= 65535 && height <= 65535 && fgetc(file) != EOF) {
        const size_t size = (size_t)width * (size_t)height * 3;
        pixels = malloc(size);
        if (pixels != NULL && fread(pixels, 1, size, file) != size) {
            free(pixels);
            pixels = NULL;
        }
    }
    if (file != NULL) fclose(file);
    if (pixels == NULL) fprintf(stderr, "%s: expected a binary PPM of 8 bits\n", path);
    image->samples = pixels;
    image->width = width;
    image->height = height;
    return pixels;
}

static int fail(const pe_metric* metric) {
    fprintf(stderr, "%s\n", pe_error_text(metric));
    return 2;
}

static int score_pair(const pe_metric* metric, const pe_image* reference, const pe_image* distorted) {
    double score = 0, threshold = 0;
    int passed = 1;
    if (pe_metric_score(metric, reference, distorted, NULL, &score, NULL) != PE_OK) return fail(metric);
    printf("%.9g\n", score);
    if (pe_metric_threshold(metric, &threshold)) {
        if (pe_metric_verdict(metric, score, PE_OWN_THRESHOLD, &passed) != PE_OK) return fail(metric);
        printf("%s: the threshold is %.9g\n", passed ? "pass" : "fail", threshold);
    }
    return passed ? 0 : 1;
}

int main(int count, char** arguments) {
    pe_image reference = PE_IMAGE_INIT, distorted = PE_IMAGE_INIT;
    pe_metric* metric = NULL;
    unsigned char *first = NULL, *second = NULL;
    int code = 2;
    if (count != 4) {
        fprintf(stderr, "Usage: score METRIC.onnx REFERENCE.ppm DISTORTED.ppm\n");
        return 2;
    }
    if (pe_metric_open(arguments[1], NULL, &metric) != PE_OK) return fail(NULL);
    first = read_ppm(arguments[2], &reference);
    second = read_ppm(arguments[3], &distorted);
    if (first != NULL && second != NULL) code = score_pair(metric, &reference, &distorted);
    free(second);
    free(first);
    pe_metric_close(metric);
    return code;
}
