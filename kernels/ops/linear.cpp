#include "ops/linear.h"

#include "cpu/kernel_table.h"
#include "cpu/vec.h"
#include "ops/activation.inl"
#include "ops/tile_shapes.h"
#if defined(T5K_ISA_AVX512)
#include "ops/linear_amx.inl"
#endif

namespace t5k::T5K_NS {
namespace {

// ---- epilogues ------------------------------------------------------------------------------------------------------

// Writes the first `columns` lanes of v.
T5K_INLINE void store_first(float *y, V16 v, int64_t columns) {
    if (columns >= LANES) return store(y, v);
    float lanes[LANES];
    store(lanes, v);
    for (int64_t i = 0; i < columns; ++i) y[i] = lanes[i];
}

T5K_INLINE V16 load_first(const float *y, int64_t columns) {
    if (columns >= LANES) return load(y);
    float lanes[LANES] = {};
    for (int64_t i = 0; i < columns; ++i) lanes[i] = y[i];
    return load(lanes);
}

void best_of(const float *acc, int64_t column, int64_t columns, Best *best) {
    if (columns == LANES && !any_above(load(acc), best->value)) return;
    for (int64_t i = 0; i < columns; ++i)
        if (acc[i] > best->value) *best = {acc[i], (int32_t)(column + i)};
}

void finish_row(const LinearJob &job, int64_t row, int64_t first, int panels, const float *acc, Best *best) {
    float *y = job.y + row * job.ldy;
    if (job.epilogue == EPILOGUE_GATED) {
        for (int p = 0; p < panels; p += 2) {
            const int64_t column = (first + p) / 2 * LANES;
            const V16 v = mul(activate(load(acc + p * LANES), job.act), load(acc + (p + 1) * LANES));
            store_first(y + column, v, job.columns - column);
        }
        return;
    }
    for (int p = 0; p < panels; ++p) {
        const int64_t column = (first + p) * LANES, left = job.columns - column, columns = left < LANES ? left : LANES;
        const V16 v = load(acc + p * LANES);
        switch (job.epilogue) {
            case EPILOGUE_ADD: store_first(y + column, add(load_first(y + column, columns), v), columns); break;
            case EPILOGUE_ACT: store_first(y + column, activate(v, job.act), columns); break;
            case EPILOGUE_ARGMAX: best_of(acc + p * LANES, job.first_column + column, columns, best + row); break;
            default: store_first(y + column, v, columns);
        }
    }
}

// The lines that finish_row will write, so that they are near when the tile is done.
T5K_INLINE void prefetch_outputs(const LinearJob &job, int64_t row, int rows, int64_t first, int panels) {
    if (job.epilogue == EPILOGUE_ARGMAX) return;
    const bool is_gated = job.epilogue == EPILOGUE_GATED;
    const int64_t column = (is_gated ? first / 2 : first) * LANES;
    for (int i = 0; i < rows; ++i)
        for (int p = 0; p < (is_gated ? panels / 2 : panels); ++p)
            __builtin_prefetch(job.y + (row + i) * job.ldy + column + p * LANES, 1, 3);
}

// ---- rows and panels ------------------------------------------------------------------------------------------------

// Panels [begin, end) for few rows: one panel, or as many as a tile is wide, after the other.
void few_rows(const LinearJob &job, int64_t begin, int64_t end, Best *best) {
    alignas(64) float acc[MAX_ROWS * MAX_PANELS * LANES];
    const Choice &tiles = CHOICES[job.rows.kind];
    int want = tiles.at_most[job.R][MAX_PANELS].panels;
    if (job.epilogue == EPILOGUE_GATED && want < 2) want = 2;
    for (int64_t first = begin; first < end;) {
        int panels = want;
        while (panels > end - first) panels /= 2;
        for (int64_t r = 0; r < job.R;) {
            const int rows = (int)(job.R - r);
            prefetch_outputs(job, r, rows, first, panels);
            // A pair of panels for a gated epilogue may be wider than this ISA's tile: compute it in two passes.
            const int step = tiles.at_most[rows][MAX_PANELS].panels < panels && panels == 2 ? 1 : panels;
            const Tile &tile = tiles.exactly[rows][step];
            for (int p = 0; p < panels; p += step) tile.run(job, r, first + p, acc + p * LANES);
            for (int i = 0; i < tile.rows; ++i)
                finish_row(job, r + i, first, panels, acc + i * MAX_PANELS * LANES, best);
            r += tile.rows;
        }
        first += panels;
    }
}

// Panels [begin, end), which stay in L2, for many rows: a tile's rows stay in L1 while it passes over the panels. The tiles
// read panel p of `job` as panel p - shift of `inputs`.
void many_rows(const LinearJob &job, int64_t begin, int64_t end, Best *best, const Choice &tiles, const LinearJob &inputs,
               int64_t shift) {
    alignas(64) float acc[MAX_ROWS * MAX_PANELS * LANES];
    for (int64_t r = 0; r < job.R;) {
        const Tile &widest = tiles.at_most[job.R - r < WIDE_ROWS ? job.R - r : WIDE_ROWS][2];
        const int rows = widest.rows;
        for (int64_t first = begin; first < end; first += 2) {
            const int panels = end - first < 2 ? 1 : 2;
            prefetch_outputs(job, r, rows, first, panels);
            const int step = widest.panels < panels ? 1 : panels;
            const Tile &tile = tiles.exactly[rows][step];
            for (int p = 0; p < panels; p += step) tile.run(inputs, r, first + p - shift, acc + p * LANES);
            for (int i = 0; i < rows; ++i)
                finish_row(job, r + i, first, panels, acc + i * MAX_PANELS * LANES, best);
        }
        r += rows;
    }
}

// Panels that fit into the share of L2 that stays in use, an even number, 0 where it is less than two.
int64_t group_of(int format, int64_t K) { return GROUP_BYTES / (panel_dwords(format, K) * 4) / 2 * 2; }

// bf16 where its dot product is no instruction or a slow one: each group of panels is widened once for all rows.
void widened_rows(const LinearJob &job, int64_t begin, int64_t end, Best *best, int64_t group) {
    alignas(64) float wide[GROUP_BYTES / 4];
    LinearJob inputs = job;
    inputs.w.data = (const uint32_t *)wide;
    inputs.w.format = FORMAT_F32;
    inputs.w.K = round_up(job.w.K, 2);
    for (int64_t first = begin; first < end; first += group) {
        const int64_t last = end - first < group ? end : first + group;
        widen(job.w, first, last, wide);
        many_rows(job, first, last, best, WIDENED, inputs, first);
    }
}

}  // namespace

// Computes panels [begin, end) of one job for all its rows. Gated jobs get even bounds. best: [R], ARGMAX only.
void linear_panels(const LinearJob &job, int64_t begin, int64_t end, Best *best) {
    if (job.R <= FEW_ROWS) return few_rows(job, begin, end, best);
    const int64_t wide = group_of(FORMAT_F32, round_up(job.w.K, 2));
    if (job.rows.kind == ROWS_BF16_FLOATS && job.R >= WIDENED_ROWS && wide >= 2)
        return widened_rows(job, begin, end, best, wide);
    const int64_t fit = group_of(job.w.format, job.w.K), group = fit < 2 ? 2 : fit;
    for (int64_t first = begin; first < end; first += group)
        many_rows(job, first, end - first < group ? end : first + group, best, CHOICES[job.rows.kind], job, 0);
}

#if defined(T5K_ISA_AVX512)
namespace {

// Panels [begin, end), which stay in L2, for every `kind.rows` rows chunk by chunk of k, so that the rows' part of one stays in L1.
__attribute__((noinline)) void amx_rows(const LinearJob &job, const AmxKind &kind, const uint32_t *unpacked, int64_t begin,
                                        int64_t end, Best *best) {
    alignas(64) float sums[AMX_ROWS * AMX_LDO];
    const int width = job.R > TILE_ROWS ? 2 : kind.streams;
    const int64_t groups = round_up((job.w.K + kind.per - 1) / kind.per, kind.groups);
    const int64_t chunks = (groups + AMX_K_GROUPS - 1) / AMX_K_GROUPS;
    const int64_t part = round_up((groups + chunks - 1) / chunks, ROW_BLOCK / 4);  // whole blocks of w8, and of all others
    int configured = 0;
    for (int64_t r = 0; r < job.R; r += kind.rows) {
        const int rows = job.R - r < kind.rows ? (int)(job.R - r) : kind.rows;
        if (rows != configured) configure_amx(configured = rows, (int)kind.groups);
        // The first rows bring the weights from memory, in the order they lie in.
        const int64_t chunk = r == 0 ? groups : part, ahead = r == 0 ? AHEAD : 0;
        for (int64_t g = 0; g < groups; g += chunk)
            for (int64_t first = begin; first < end;) {
                int panels = width;
                while (panels > end - first) panels /= 2;
                const uint32_t *ints = unpacked ? unpacked + (first - begin) * unpacked_dwords(job.w) : nullptr;
                const int64_t stop = g + chunk < groups ? g + chunk : groups;
                kind.run({job, ints, r, rows, first, panels, g, stop, ahead, sums + (first - begin) * LANES});
                first += panels;
            }
        for (int i = 0; i < rows; ++i) {
            float *row = sums + i * AMX_LDO;
            if (kind.scale) kind.scale(job, r + i, begin, end - begin, row);
            finish_row(job, r + i, begin, (int)(end - begin), row, best);
        }
    }
    release_tiles();
}

// The same for int4. Apart, so that only int4 has its panels on the stack.
__attribute__((noinline)) void amx_rows_i4(const LinearJob &job, int64_t begin, int64_t end, Best *best) {
    alignas(64) uint32_t unpacked[GROUP_BYTES / 4];
    for (int64_t p = begin; p < end; ++p) unpack_i4(job.w, p, unpacked + (p - begin) * unpacked_dwords(job.w));
    amx_rows(job, AMX_W4, unpacked, begin, end, best);
}

}  // namespace

// Rows up to which tiles are no faster, by RowRounding; rows of w8 are in an order that only tiles read.
constexpr int64_t ROWS_WITHOUT_TILES[] = {0, 4, 0, 8, 0, 0, 2, 0};
static_assert(ROWS_W8A8 == 1 && ROWS_W4 == 3 && ROWS_BF16_AMX == 6 && ROWS_W8_BYTES == 7, "the order of ROWS_WITHOUT_TILES");

// The same by AMX tiles, but for what they do not do, or do not do faster: fp32, and few rows of all but w8.
void linear_panels_amx(const LinearJob &job, int64_t begin, int64_t end, Best *best) {
    const RowRounding rounding = job.rows.kind;
    const bool is_i4 = rounding == ROWS_W4;
    const int64_t dwords = is_i4 ? unpacked_dwords(job.w) : panel_dwords(job.w.format, job.w.K);
    const int64_t fit = (is_i4 ? GROUP_BYTES : AMX_GROUP_BYTES) / (dwords * 4);
    if (rounding == ROWS_PLAIN || job.R <= ROWS_WITHOUT_TILES[rounding] || (is_i4 && fit < 2)) return linear_panels(job, begin, end, best);
    const AmxKind &kind = rounding == ROWS_W8A8 ? AMX_W8A8 : rounding == ROWS_W8_BYTES ? AMX_W8 : AMX_BF16;
    const int64_t group = fit < 2 ? 2 : fit > AMX_PANELS ? AMX_PANELS : fit / 2 * 2;
    for (int64_t first = begin; first < end; first += group) {
        const int64_t last = end - first < group ? end : first + group;
        is_i4 ? amx_rows_i4(job, first, last, best) : amx_rows(job, kind, nullptr, first, last, best);
    }
}
#endif

}  // namespace t5k::T5K_NS
