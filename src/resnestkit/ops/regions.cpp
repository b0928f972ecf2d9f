// RoIAlign (He et al. 2017, Mask R-CNN, section 3) on maps that lie channels_last, and its
// gradient. resnestkit.ops.regions calls it.
//
// A region is cut into side x side cells. Each is the mean of the map at a grid of points, a point
// being read between the four pixels around it. The points stand in rows and columns, so that a
// cell reads some rows and some columns of pixels, each with a weight; these are told once for all
// channels. Where a point lies is computed in float32 and in torchvision's order.
//
// Every pixel's gradient is added up by one thread, in the regions' order: the bits are the same
// whatever the number of threads.

#include <cmath>
#include <type_traits>

#include "maps.h"

namespace {

// The maps of one level, and how regions on them are cut; level_of tells each region's level.
template <class T>
struct Level {
  T* maps;
  const float* regions;  // image, left, top, right, bottom
  const int64_t* level_of;
  long number, count, images, height, width, channels, side;
  float scale;  // map pixels per image pixel
  long ratio;   // points per cell and axis; 0 is as many as a cell is pixels wide
  bool aligned;

  T* image(long index) const { return maps + index * height * width * channels; }
};

struct Tap {
  long pixel;
  float weight;
};

// The pixels that each cell reads along one axis.
class Axis {
 public:
  template <class T>
  void cut(float from, float to, long pixels, const Level<T>& level) {
    const float offset = level.aligned ? 0.5f : 0.f, start = from * level.scale - offset;
    float length = to * level.scale - offset - start;
    if (!level.aligned) length = std::max(length, 1.f);
    const float cell = length / float(level.side);
    const float asked = std::min(std::ceil(cell), 1e6f);  // a box may have no end
    const long points = level.ratio > 0 ? level.ratio : asked > 0.f ? long(asked) : 0;
    taps.clear();
    starts.assign(1, 0);
    for (long i = 0; i < level.side; i++) {
      for (long p = 0; p < points; p++)
        sample(start + float(i) * cell + (float(p) + 0.5f) * cell / float(points), pixels,
               1.f / float(points));
      starts.push_back(taps.size());
    }
  }

  const Tap* begin(long cell) const { return taps.data() + starts[cell]; }
  const Tap* end(long cell) const { return taps.data() + starts[cell + 1]; }

 private:
  std::vector<Tap> taps;
  std::vector<size_t> starts;  // of each cell's taps, and their end

  // A point a pixel beyond the map reads the pixel at its edge, one farther out reads nothing.
  void sample(float point, long pixels, float weight) {
    if (!(point >= -1.f && point <= float(pixels))) return;
    const float within = std::max(point, 0.f);
    const long low = std::min(long(within), pixels - 1);
    const float part = low + 1 < pixels ? within - float(low) : 0.f;
    add(low, (1.f - part) * weight);
    if (part > 0.f) add(low + 1, part * weight);
  }

  // Neighbouring points share pixels: the two that came last.
  void add(long pixel, float weight) {
    for (size_t i = taps.size(), back = 0; i-- > starts.back() && back < 2; back++)
      if (taps[i].pixel == pixel) {
        taps[i].weight += weight;
        return;
      }
    taps.push_back({pixel, weight});
  }
};

// Both axes of a region: for every cell, the pixels it reads.
struct Cut {
  Axis rows, columns;

  template <class T>
  void make(const float* region, const Level<T>& level) {
    rows.cut(region[2], region[4], level.height, level);
    columns.cut(region[1], region[3], level.width, level);
  }

  template <class Read>
  void each(long cell, long side, long width, Read read) const {
    const Tap *left = columns.begin(cell % side), *right = columns.end(cell % side);
    for (const Tap* row = rows.begin(cell / side); row < rows.end(cell / side); row++)
      for (const Tap* column = left; column < right; column++)
        read(row->pixel * width + column->pixel, row->weight * column->weight);
  }
};

// The number of channels is told to the compiler where it is a whole block's.
template <class Run>
inline void with_count(long count, Run run) {
  if (count == BLOCK)
    run(std::integral_constant<long, BLOCK>());
  else
    run(count);
}

// What regions of the level hold: y is regions of cells of channels, or with planes of channels of
// cells.
template <class T>
void pool(const Level<const T>& level, bool planes, int threads, T* y) {
  const long channels = level.channels, cells = level.side * level.side;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> sums(cells * BLOCK);
    Cut cut;
#pragma omp for schedule(dynamic, 4)
    for (long r = 0; r < level.count; r++) {
      if (level.level_of[r] != level.number) continue;
      const float* region = level.regions + 5 * r;
      cut.make(region, level);
      for (long first = 0; first < channels; first += BLOCK) {
        const T* map = level.image(long(region[0])) + first;
        T* out = y + r * cells * channels;
        with_count(std::min(BLOCK, channels - first), [&](auto held) {
          const long count = held;
          for (long cell = 0; cell < cells; cell++) {
            float sum[BLOCK] = {};
            cut.each(cell, level.side, level.width, [&](long pixel, float weight) {
              const T* from = map + pixel * channels;
#pragma omp simd
              for (long c = 0; c < count; c++) sum[c] += weight * widen(from[c]);
            });
            if (planes)
              std::copy_n(sum, BLOCK, sums.data() + cell * BLOCK);
            else
              for (long c = 0; c < count; c++)
                out[cell * channels + first + c] = narrow<T>(sum[c]);
          }
          if (planes)
            for (long c = 0; c < count; c++)
              for (long cell = 0; cell < cells; cell++)
                out[(first + c) * cells + cell] = narrow<T>(sums[cell * BLOCK + c]);
        });
      }
    }
  }
}

// The maps' gradient from that of the regions, which lies as y does. Maps of no region get zeros.
template <class T>
void spread(const Level<T>& level, const T* g, bool planes, int threads) {
  const long channels = level.channels, cells = level.side * level.side;
  const long pixels = level.height * level.width, blocks = (channels + BLOCK - 1) / BLOCK;
  // As each thread holds sums of its own, together no more than there are.
  const int workers = int(std::min(long(threads), std::max(1l, level.images * blocks)));
#pragma omp parallel num_threads(workers)
  {
    std::vector<float> sums(pixels * BLOCK), wanted(cells * BLOCK);
    Cut cut;
#pragma omp for collapse(2) schedule(dynamic)
    for (long image = 0; image < level.images; image++)
      for (long block = 0; block < blocks; block++) {
        const long first = block * BLOCK, count = std::min(BLOCK, channels - first);
        std::fill(sums.begin(), sums.end(), 0.f);
        for (long r = 0; r < level.count; r++) {
          const float* region = level.regions + 5 * r;
          if (level.level_of[r] != level.number || long(region[0]) != image) continue;
          cut.make(region, level);
          const T* from = g + r * cells * channels;
          const long step = planes ? cells : 1, leap = planes ? 1 : channels;
          for (long cell = 0; cell < cells; cell++)
            for (long c = 0; c < count; c++)
              wanted[cell * BLOCK + c] = widen(from[(first + c) * step + cell * leap]);
          // A block is added whole: what the last one has beyond its channels is never read.
          for (long cell = 0; cell < cells; cell++) {
            const float* gradient = wanted.data() + cell * BLOCK;
            cut.each(cell, level.side, level.width, [&](long pixel, float weight) {
              float* to = sums.data() + pixel * BLOCK;
#pragma omp simd
              for (long c = 0; c < BLOCK; c++) to[c] += weight * gradient[c];
            });
          }
        }
        T* map = level.image(image) + first;
        for (long pixel = 0; pixel < pixels; pixel++)
          for (long c = 0; c < count; c++)
            map[pixel * channels + c] = narrow<T>(sums[pixel * BLOCK + c]);
      }
  }
}

}  // namespace

#define FORMS(TYPE, T)                                                                             \
  void pool_##TYPE(const T* x, const float* regions, const int64_t* level_of, long number,         \
                   long count, long images, long height, long width, long channels, long side,     \
                   float scale, long ratio, long aligned, long planes, int threads, T* y) {        \
    pool<T>({x, regions, level_of, number, count, images, height, width, channels, side, scale,    \
             ratio, aligned != 0},                                                                 \
            planes != 0, threads, y);                                                              \
  }                                                                                                \
  void spread_##TYPE(T* dx, const float* regions, const int64_t* level_of, long number,            \
                     long count, long images, long height, long width, long channels, long side,   \
                     float scale, long ratio, long aligned, long planes, int threads,              \
                     const T* g) {                                                                 \
    spread<T>({dx, regions, level_of, number, count, images, height, width, channels, side, scale, \
               ratio, aligned != 0},                                                               \
              g, planes != 0, threads);                                                            \
  }

extern "C" {
FORMS(bfloat16, Bfloat16)
FORMS(float32, float)
}
