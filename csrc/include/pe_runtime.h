/*
 * pe_runtime in C: load an image metric that was exported to ONNX, score pairs of images with it.
 *
 *     pe_metric* metric = NULL;
 *     if (pe_metric_open("metric.onnx", NULL, &metric) != PE_OK) {
 *         fprintf(stderr, "%s\n", pe_error_text(NULL));
 *         return 2;
 *     }
 *     pe_image reference = PE_IMAGE_INIT, distorted = PE_IMAGE_INIT;
 *     reference.samples = pixels;          // width x height x RGB, 8 bits each
 *     reference.width = 640;
 *     reference.height = 480;
 *     ...
 *     double score;
 *     if (pe_metric_score(metric, &reference, &distorted, NULL, &score, NULL) != PE_OK)
 *         fprintf(stderr, "%s\n", pe_error_text(metric));
 *     pe_metric_close(metric);
 *
 * Errors. A function that can fail returns a pe_status; no function prints, aborts or throws. What an output
 * argument points to is written on PE_OK only. pe_error_text() says what was wrong: it names the argument and
 * what was expected.
 *
 * Ownership. Opening or scoring hands out objects, which the caller gives back with pe_metric_close() or
 * pe_map_free(). Pointers into an object are valid as long as it is. What the caller passes in is read during
 * the call only, and never kept.
 *
 * Threads. One metric may be used from any number of threads at once; only closing it needs it for itself.
 * A child of fork() cannot use the metrics of its parent.
 *
 * ABI. Structures begin with their size, which the initialisers set: a program that was compiled with this
 * header runs with later libraries of the same PE_ABI_VERSION, whose structures may be longer.
 */
#ifndef PE_RUNTIME_H
#define PE_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define PE_API __attribute__((visibility("default")))
#else
#define PE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a program must be compiled anew; it is the number in the library's file name. */
#define PE_ABI_VERSION 1

/* The PE_ABI_VERSION of the library that is loaded. */
PE_API uint32_t pe_abi_version(void);

/* The version of pe_runtime, "MAJOR.MINOR.PATCH". Static. */
PE_API const char* pe_version(void);

typedef enum pe_status {
    PE_OK = 0,
    PE_INVALID_ARGUMENT = 1, /* an argument that the function refuses */
    PE_UNREADABLE = 2,       /* a file that cannot be read */
    PE_INVALID_METRIC = 3,   /* a file that is no exported metric, is damaged, or has not what is asked for */
    PE_NO_RUNTIME = 4,       /* ONNX Runtime, or the library of the operators, cannot be loaded */
    PE_RUN_FAILED = 5,       /* the metric failed on these images, or gave a score that is none */
    PE_OUT_OF_MEMORY = 6,
    PE_INTERNAL_ERROR = 7
} pe_status;

/* A short name such as "invalid argument". Static; never NULL. */
PE_API const char* pe_status_name(pe_status status);

/* An exported metric, loaded. */
typedef struct pe_metric pe_metric;

/* A difference map. */
typedef struct pe_map pe_map;

/*
 * What went wrong in the last call on `metric` that failed in the calling thread; with NULL, in the last call
 * without a metric (opening one). UTF-8, one line. Never NULL; empty where nothing has failed. Valid until
 * the next call that fails in this thread, and, with a metric, until that is closed.
 */
PE_API const char* pe_error_text(const pe_metric* metric);

/* Use of pe_runtime's own operators, for a metric that was exported with them ("fused"). */
typedef enum pe_operators {
    PE_OPERATORS_AUTO = 0, /* where their library is there; the metric's standard operators elsewhere */
    PE_OPERATORS_ON = 1,   /* opening fails where it is not */
    PE_OPERATORS_OFF = 2
} pe_operators;

typedef struct pe_metric_options {
    size_t size; /* sizeof(pe_metric_options) */

    /* Path of ONNX Runtime's library, 1.27 or newer. NULL: that in the environment variable
       PE_RUNTIME_ONNXRUNTIME, else libonnxruntime.so.1, else libonnxruntime.so, where the system finds it.
       Once it is loaded it stays loaded. */
    const char* onnxruntime;

    /* Path of libpe_runtime_ort.so. NULL: that in the environment variable PE_RUNTIME_ORT_LIBRARY, else the
       one in the folder of this library. Not looked at unless the metric has operators of pe_runtime. */
    const char* operators_library;

    pe_operators operators;

    /* Threads that compute one score; 0: one per core. Scores of different thread counts differ by
       rounding at most. */
    int32_t threads;

    /* Where ONNX Runtime computes: "cpu", "cuda" or another of its execution providers. NULL: "cpu". */
    const char* provider;
} pe_metric_options;

#define PE_METRIC_OPTIONS_INIT {sizeof(pe_metric_options), NULL, NULL, PE_OPERATORS_AUTO, 0, NULL}

/*
 * Load a metric from an ONNX file that pe-runtime export has written.
 *
 *   path     the file, less than 2 GiB, with its weights inside.
 *   options  NULL: the defaults.
 *   metric   receives the metric, which the caller owns and gives back with pe_metric_close().
 *
 * PE_INVALID_ARGUMENT, PE_UNREADABLE, PE_INVALID_METRIC, PE_NO_RUNTIME, PE_OUT_OF_MEMORY; the text is that
 * of pe_error_text(NULL).
 *
 * A metric is a program that decides how much time and memory it takes: load those that you trust.
 */
PE_API pe_status pe_metric_open(const char* path, const pe_metric_options* options, pe_metric** metric);

/* The same from the file's bytes, which are not needed after the call. */
PE_API pe_status pe_metric_open_memory(const void* data, size_t bytes, const pe_metric_options* options,
                                       pe_metric** metric);

/* Give a metric back; no other thread may use it any more. NULL is allowed. */
PE_API void pe_metric_close(pe_metric* metric);

/* What the metric's inputs take, and so how images reach it. */
typedef enum pe_input {
    PE_INPUT_NONE = 0,    /* of NULL */
    PE_INPUT_FLOAT32 = 1, /* samples divided by the largest value of their type */
    PE_INPUT_UINT8 = 2    /* 8-bit samples; 16-bit and floating-point ones are rounded to these */
} pe_input;

/* All that the file says of itself: a JSON object, UTF-8, owned by the metric. NULL of NULL. */
PE_API const char* pe_metric_metadata(const pe_metric* metric);

/* The metric's name, such as "feature_distance", owned by the metric; empty where the file names none. NULL
   of NULL. */
PE_API const char* pe_metric_kind(const pe_metric* metric);

PE_API pe_input pe_metric_input(const pe_metric* metric);

/* Least width and height of images. 0 of NULL. */
PE_API int64_t pe_metric_min_size(const pe_metric* metric);

/* 1 if it gives difference maps, else 0. */
PE_API int pe_metric_has_map(const pe_metric* metric);

/* The largest score that passes, which it was exported with: 1 and written to `threshold`, or 0 if it
   carries none. */
PE_API int pe_metric_threshold(const pe_metric* metric, double* threshold);

typedef enum pe_sample {
    PE_UINT8 = 1,
    PE_UINT16 = 2, /* in the machine's byte order */
    PE_FLOAT32 = 3 /* in [0, 1] */
} pe_sample;

/* The samples of a pixel, in their order in memory. Alpha is opacity: the largest value is opaque. */
typedef enum pe_layout {
    PE_GREY = 1,
    PE_GREY_ALPHA = 2,
    PE_RGB = 3,
    PE_RGBA = 4,
    PE_BGR = 5,
    PE_BGRA = 6
} pe_layout;

/* An image in the caller's memory. Rows and pixels may lie anywhere: strides may be negative, and with
   `channel_stride` the image may be planar. */
typedef struct pe_image {
    size_t size;         /* sizeof(pe_image) */
    const void* samples; /* the first sample of the top left pixel, aligned to its type */
    int64_t width;       /* in pixels */
    int64_t height;
    pe_layout layout;
    pe_sample sample;
    ptrdiff_t row_stride;     /* in bytes, as the others; 0: rows without padding */
    ptrdiff_t pixel_stride;   /* 0: pixels without padding */
    ptrdiff_t channel_stride; /* 0: the samples of a pixel lie side by side */
    int32_t premultiplied;    /* not 0: colours are multiplied by alpha already */
} pe_image;

#define PE_IMAGE_INIT {sizeof(pe_image), NULL, 0, 0, PE_RGB, PE_UINT8, 0, 0, 0, 0}

typedef struct pe_score_options {
    size_t size;           /* sizeof(pe_score_options) */
    uint8_t background[3]; /* RGB that pixels with alpha are composited over */
} pe_score_options;

/* Mid-grey: over white, a defect in white content would vanish; over black, one in black content. */
#define PE_SCORE_OPTIONS_INIT {sizeof(pe_score_options), {128, 128, 128}}

/*
 * Compare two images. The result depends on nothing but the two.
 *
 *   reference  what it should look like. Grey is repeated in three channels; alpha is composited over the
 *              background, in exact integers where samples are.
 *   distorted  what is judged: the same width and height; layout and samples may be others.
 *   options    NULL: the defaults.
 *   score      receives the distance, finite and >= 0; larger is worse: the shortest decimal that stands
 *              for the float32 that the metric computed, so that it prints, and compares to a threshold,
 *              as one reads it.
 *   map        receives the difference map, which the caller owns and gives back with pe_map_free(). NULL:
 *              it is not computed.
 *
 * PE_INVALID_ARGUMENT (sizes that differ, are too small for the metric or more than 2^30 pixels;
 * floating-point samples that are not in [0, 1]), PE_INVALID_METRIC (a map of a metric that has none),
 * PE_RUN_FAILED, PE_OUT_OF_MEMORY.
 */
PE_API pe_status pe_metric_score(const pe_metric* metric, const pe_image* reference,
                                 const pe_image* distorted, const pe_score_options* options, double* score,
                                 pe_map** map);

/* As the threshold of pe_metric_verdict: that of the metric itself. */
#define PE_OWN_THRESHOLD (-1.0)

/*
 * Compare a score of pe_metric_score() with a threshold.
 *
 *   threshold  the largest score that passes, finite and >= 0, or PE_OWN_THRESHOLD.
 *   passed     receives 1 if score <= threshold, else 0.
 *
 * PE_INVALID_ARGUMENT (a score or threshold that is none; PE_OWN_THRESHOLD of a metric that carries none).
 */
PE_API pe_status pe_metric_verdict(const pe_metric* metric, double score, double threshold, int* passed);

/* Width and height of a map, which is coarser than the images where the metric's features are. 0 of NULL. */
PE_API int64_t pe_map_width(const pe_map* map);
PE_API int64_t pe_map_height(const pe_map* map);

/* Its values, width * height of them, row by row without padding, finite; larger is worse. Owned by the
   map. NULL of NULL. */
PE_API const float* pe_map_values(const pe_map* map);

/* Give a map back, before or after its metric is closed. NULL is allowed. */
PE_API void pe_map_free(pe_map* map);

#ifdef __cplusplus
}
#endif

#endif
