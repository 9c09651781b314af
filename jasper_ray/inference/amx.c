/* A layer in the frequency domain by AMX, in bf16 with sums in float32: see channels_first_amx.py, which compiles it.
 *
 * Three passes: frames to spectra, products between channels, products to frames. Between passes numbers lie as the
 * next one's tiles want them, in "pairs": two neighbours along the dimension that is summed over share 32 bits. Weights
 * are read once, in the order in which they lie.
 */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HOP 24           /* output frames of a tile */
#define BLOCK 32         /* output channels, and tiles of frames, that a product takes at a time */
#define UNIT 16          /* rows and columns of an AMX tile */
#define LINE 32          /* numbers of a line of the cache */
#define LARGE 3000000    /* numbers of spectra that do not stay in a cache: written to memory without reading it */

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} TileConfig;

typedef struct {
    int64_t inputs, outputs; /* channels, multiples of 32 */
    int64_t tiles;           /* of frames in a channel, a multiple of 16 */
    int64_t tile;            /* frames of one: above 32, at most 64, even */
    int64_t rows;            /* of spectra */
} Sizes;

/* Linux gives a process AMX's registers when it asks. */
int jasper_amx_allow(void) { return (int)syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18); }

static int64_t divided_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

/* From one row of spectra to the next, and from one block of products. A line more than there are numbers, or all of
 * them would compete for the same few places of the cache. */
static int64_t row_pitch(const Sizes *s) { return divided_up(s->tiles, BLOCK) * s->inputs * BLOCK + LINE; }
static int64_t block_pitch(const Sizes *s) { return BLOCK * s->tiles * 2 + LINE; }

/* Numbers that there must be room for. */
int64_t jasper_amx_spectra(const Sizes *s) { return s->rows * row_pitch(s); }

int64_t jasper_amx_products(const Sizes *s) {
    return s->outputs / BLOCK * divided_up(s->rows, 2) * block_pitch(s);
}

static void configure(const int *rows, const int *bytes) {
    TileConfig config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) {
        config.rows[i] = (uint8_t)rows[i];
        config.bytes[i] = (uint16_t)bytes[i];
    }
    _tile_loadconfig(&config);
}

/* 16 x 16 words. */
static inline void transpose(__m512i *r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* Words of two numbers, the first one in the lower half. */
static inline __m512i paired(__m512 first, __m512 second) {
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* Frames (from `x`, a tile every HOP) of one channel and 16 tiles as the second factor: pairs of frames, by tile. */
static inline void frames_as_factor(const uint16_t *x, int64_t tile, uint32_t first[16][16], uint32_t second[16][16]) {
    __mmask16 rest = (__mmask16)((1u << ((tile - 32) / 2)) - 1);
    __m512i r[16];
    for (int n = 0; n < 16; n++) r[n] = _mm512_loadu_si512(x + n * HOP);
    transpose(r);
    for (int n = 0; n < 16; n++) _mm512_store_si512(first[n], r[n]);
    for (int n = 0; n < 16; n++) r[n] = _mm512_maskz_loadu_epi32(rest, x + n * HOP + 32);
    transpose(r);
    for (int n = 0; n < 16; n++) _mm512_store_si512(second[n], r[n]);
}

/* Frames to spectra `(row, block of tiles, pair of channels, tile, 2)`, for some pairs of channels.
 * x: `(inputs, tiles * HOP)`, and half a kernel before and behind. into: `(rows / 16, 2, 16, 32)`. */
static void to_spectra(const Sizes *s, const uint16_t *x, const uint16_t *into, uint16_t *spectra, int64_t from,
                       int64_t to) {
    int64_t reach = (s->tile - HOP) / 2, length = s->tiles * HOP;
    int rest = (int)(s->tile - 32) / 2;
    int rows[8] = {16, rest, 16, rest, 16, 16, 16, 16}, bytes[8] = {64, 64, 64, 64, 64, 4 * rest, 64, 64};
    int past_caches = jasper_amx_spectra(s) > LARGE;
    uint32_t factors[4][16][16] __attribute__((aligned(64)));
    float sums[2][16][16] __attribute__((aligned(64)));
    configure(rows, bytes);
    for (int64_t pair = from; pair < to; pair++) {
        const uint16_t *channel = x + 2 * pair * length - reach;
        for (int64_t n = 0; n < s->tiles; n += UNIT) {
            frames_as_factor(channel + n * HOP, s->tile, factors[0], factors[1]);
            frames_as_factor(channel + length + n * HOP, s->tile, factors[2], factors[3]);
            _tile_loadd(0, factors[0], 64);
            _tile_loadd(1, factors[1], 64);
            _tile_loadd(2, factors[2], 64);
            _tile_loadd(3, factors[3], 64);
            uint16_t *to_here = spectra + ((n / BLOCK * (s->inputs / 2) + pair) * BLOCK + n % BLOCK) * 2;
            for (int64_t row = 0; row < s->rows; row += UNIT) {
                _tile_loadd(4, into + row / UNIT * 1024, 64);
                _tile_loadd(5, into + row / UNIT * 1024 + 512, 64);
                _tile_zero(6);
                _tile_zero(7);
                _tile_dpbf16ps(6, 4, 0);
                _tile_dpbf16ps(7, 4, 2);
                _tile_dpbf16ps(6, 5, 1);
                _tile_dpbf16ps(7, 5, 3);
                _tile_stored(6, sums[0], 64);
                _tile_stored(7, sums[1], 64);
                int64_t many = s->rows - row < UNIT ? s->rows - row : UNIT;
                for (int64_t i = 0; i < many; i++) {
                    __m512i words = paired(_mm512_load_ps(sums[0][i]), _mm512_load_ps(sums[1][i]));
                    __m512i *line = (__m512i *)(to_here + (row + i) * row_pitch(s));
                    if (past_caches)
                        _mm512_stream_si512(line, words);
                    else
                        _mm512_store_si512(line, words);
                }
            }
        }
    }
    if (past_caches) _mm_sfence();
}

/* An eighth of the sums into the nearest cache, where factors have driven them out: a tile is stored line by line, and
 * would wait for each. */
static inline void ready(float sums[BLOCK][BLOCK], int64_t part) {
    if (part >= 0)
        for (int64_t i = 0; i < 8; i++) __builtin_prefetch(&sums[0][0] + (part * 8 + i) * 16, 1, 3);
}

/* The products of one row of spectra, one block of output channels and one block of tiles. Beside each step some lines
 * of the weights that come `next` are asked for. */
static inline void multiply(const Sizes *s, const uint16_t *weights, const uint16_t *spectra, int64_t many,
                            float sums[BLOCK][BLOCK], const uint16_t *next, int64_t lines) {
    int64_t steps = s->inputs / 32;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (many > UNIT) {
        for (int64_t k = 0; k < steps; k++) {
            const uint16_t *w = weights + k * 1024, *b = spectra + k * 1024;
            for (int64_t i = 0; i < lines; i++) _mm_prefetch((const char *)(next + (k * lines + i) * LINE), _MM_HINT_T1);
            ready(sums, k + 8 - steps);
            _tile_loadd(4, w, 64);
            _tile_loadd(6, b, 128);
            _tile_loadd(7, b + 32, 128);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, w + 512, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(1, &sums[0][16], BLOCK * 4);
        _tile_stored(3, &sums[16][16], BLOCK * 4);
    } else {
        for (int64_t k = 0; k < steps; k++) {
            const uint16_t *w = weights + k * 1024;
            for (int64_t i = 0; i < lines; i++) _mm_prefetch((const char *)(next + (k * lines + i) * LINE), _MM_HINT_T1);
            ready(sums, k + 8 - steps);
            _tile_loadd(4, w, 64);
            _tile_loadd(6, spectra + k * 1024, 128);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, w + 512, 64);
            _tile_dpbf16ps(2, 5, 6);
        }
    }
    _tile_stored(0, &sums[0][0], BLOCK * 4);
    _tile_stored(2, &sums[16][0], BLOCK * 4);
}

/* Spectra to products `(block of channels, pair of rows, channel, tile, 2)`, for some blocks of channels.
 * weights: `(pair of rows, block of channels, 2, inputs / 32, 2, 16, 32)`. */
static void to_products(const Sizes *s, const uint16_t *spectra, const uint16_t *weights, uint16_t *products,
                        int64_t from, int64_t to) {
    int64_t pairs = divided_up(s->rows, 2), panel = s->inputs * BLOCK, of_pair = s->outputs / BLOCK * 2 * panel;
    int64_t lines = divided_up(2 * UNIT, divided_up(s->tiles, BLOCK)), part = s->inputs / 32 * lines * LINE;
    int rows[8] = {16, 16, 16, 16, 16, 16, 16, 16}, bytes[8] = {64, 64, 64, 64, 64, 64, 64, 64};
    float sums[2][BLOCK][BLOCK] __attribute__((aligned(64)));
    configure(rows, bytes);
    for (int64_t pair = 0; pair < pairs; pair++) {
        int both = 2 * pair + 1 < s->rows;
        for (int64_t block = from; block < to; block++) {
            const uint16_t *w = weights + pair * of_pair + block * 2 * panel;
            const uint16_t *next = block + 1 < to ? w + 2 * panel : weights + (pair + 1) * of_pair + from * 2 * panel;
            if (pair + 1 == pairs && block + 1 == to) next = w;
            uint16_t *to_here = products + (block * pairs + pair) * block_pitch(s);
            if (!both) memset(sums[1], 0, sizeof sums[1]);
            for (int64_t n = 0; n < s->tiles; n += BLOCK) {
                const uint16_t *b = spectra + 2 * pair * row_pitch(s) + n * s->inputs, *ahead = next + n / BLOCK * part;
                int64_t many = s->tiles - n < BLOCK ? s->tiles - n : BLOCK;
                multiply(s, w, b, many, sums[0], ahead, lines);
                if (both) multiply(s, w + panel, b + row_pitch(s), many, sums[1], ahead + panel, lines);
                for (int64_t i = 0; i < BLOCK; i++) {
                    uint16_t *out = to_here + (i * s->tiles + n) * 2;
                    for (int64_t j = 0; j < many; j += UNIT)
                        _mm512_storeu_si512(out + 2 * j,
                                            paired(_mm512_load_ps(&sums[0][i][j]), _mm512_load_ps(&sums[1][i][j])));
                }
            }
        }
    }
}

/* Products to frames `(outputs, tiles * HOP)`, for some blocks of channels: plus bias and, if it adds, what was there,
 * within bounds, and zero where nothing is kept. back: `(rows / 32, 24, 32)`. */
static void to_frames(const Sizes *s, const uint16_t *products, const uint16_t *back, const float *bias,
                      const uint16_t *keep, float lower, float upper, int adds, uint16_t *y, int64_t from, int64_t to) {
    int64_t pairs = divided_up(s->rows, 2), whole = pairs / UNIT, length = s->tiles * HOP;
    int rest = (int)(pairs % UNIT), some = rest ? rest : 1;
    int rows[8] = {16, 8, 16, some, 16, 8, 16, 8}, bytes[8] = {64, 64, 64, 64, 64, 64, 4 * some, 4 * some};
    float sums[HOP][16] __attribute__((aligned(64)));
    const __mmask16 mask = 0xfff;
    const __m512 low = _mm512_set1_ps(lower), high = _mm512_set1_ps(upper);
    const __m512i upper_half = _mm512_set1_epi32((int)0xffff0000);
    configure(rows, bytes);
    for (int64_t channel = from * BLOCK; channel < to * BLOCK; channel++) {
        const uint16_t *of_block = products + channel / BLOCK * pairs * block_pitch(s);
        const __m512 start = _mm512_set1_ps(bias[channel]);
        for (int64_t n = 0; n < s->tiles; n += UNIT) {
            const uint16_t *b = of_block + ((channel % BLOCK) * s->tiles + n) * 2;
            _tile_zero(0);
            _tile_zero(1);
            for (int64_t k = 0; k < whole; k++) {
                _tile_loadd(2, b + k * UNIT * block_pitch(s), block_pitch(s) * 2);
                _tile_loadd(4, back + k * HOP * 32, 64);
                _tile_loadd(5, back + k * HOP * 32 + 512, 64);
                _tile_dpbf16ps(0, 4, 2);
                _tile_dpbf16ps(1, 5, 2);
            }
            if (rest) {
                _tile_loadd(3, b + whole * UNIT * block_pitch(s), block_pitch(s) * 2);
                _tile_loadd(6, back + whole * HOP * 32, 64);
                _tile_loadd(7, back + whole * HOP * 32 + 512, 64);
                _tile_dpbf16ps(0, 6, 3);
                _tile_dpbf16ps(1, 7, 3);
            }
            _tile_stored(0, sums[0], 64);
            _tile_stored(1, sums[16], 64);
            uint16_t *out = y + channel * length + n * HOP;
            __m512i words[16], before[16];
            for (int i = 0; i < 16; i++) before[i] = _mm512_setzero_si512();
            if (adds) {
                for (int i = 0; i < 16; i++) before[i] = _mm512_maskz_loadu_epi32(mask, out + i * HOP);
                transpose(before);
            }
            for (int i = 0; i < 12; i++) {
                __m512 first = _mm512_add_ps(_mm512_load_ps(sums[2 * i]), start);
                __m512 second = _mm512_add_ps(_mm512_load_ps(sums[2 * i + 1]), start);
                first = _mm512_add_ps(first, _mm512_castsi512_ps(_mm512_slli_epi32(before[i], 16)));
                second = _mm512_add_ps(second, _mm512_castsi512_ps(_mm512_and_si512(before[i], upper_half)));
                /* in this order what is no number stays none */
                first = _mm512_min_ps(high, _mm512_max_ps(low, first));
                second = _mm512_min_ps(high, _mm512_max_ps(low, second));
                words[i] = paired(first, second);
            }
            for (int i = 12; i < 16; i++) words[i] = _mm512_setzero_si512();
            transpose(words);
            for (int i = 0; i < 16; i++) {
                __m512i kept = _mm512_maskz_loadu_epi32(mask, keep + (n + i) * HOP);
                _mm512_mask_storeu_epi32(out + i * HOP, mask, _mm512_and_si512(words[i], kept));
            }
        }
    }
}

void jasper_amx_layer(const Sizes *s, const uint16_t *x, const uint16_t *into, const uint16_t *weights,
                      const uint16_t *back, const float *bias, const uint16_t *keep, float lower, float upper,
                      int adds, int threads, uint16_t *spectra, uint16_t *products, uint16_t *y) {
    int64_t pairs = s->inputs / 2, blocks = s->outputs / BLOCK;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int i = 0; i < threads; i++)
            to_spectra(s, x, into, spectra, pairs * i / threads, pairs * (i + 1) / threads);
#pragma omp for schedule(static)
        for (int i = 0; i < threads; i++) {
            int64_t from = blocks * i / threads, to = blocks * (i + 1) / threads;
            to_products(s, spectra, weights, products, from, to);
            to_frames(s, products, back, bias, keep, lower, upper, adds, y, from, to);
        }
        _tile_release();
    }
}
