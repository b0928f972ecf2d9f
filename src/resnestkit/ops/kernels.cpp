// Training's batch normalisation, ReLU and split attention, in as few passes over memory as their
// formulas allow. resnestkit.ops.kernels compiles this file and calls it; resnestkit.ops.fused says
// what each function is part of.
//
// A map is rows of channels (channels_last): rows = images * pixels. x is what a convolution put
// out; its normalised value is scale * x + shift, with scale = weight / std. Everything is summed
// in float32 over short runs of rows and in float64 over the runs, in an order that depends on the
// number of threads alone, so that the same training gives the same bits.

#include "maps.h"

namespace {

constexpr long RUN = 256;  // rows summed in float32

// A comparison with a NaN is false: it stays, and reaches the loss.
inline float relu(float value) { return value < 0.f ? 0.f : value; }

// Two sums per channel over all rows; value(row, channel, a, b) sets the terms. Terms are made of
// values loaded without a condition, since a conditional load is not vectorised.
template <class Value>
void sum_rows(long rows, long channels, int threads, double* first, double* second, Value value) {
  std::vector<double> parts(2 * channels * threads, 0.0);
#pragma omp parallel num_threads(threads)
  {
    const long thread = omp_get_thread_num(), count = omp_get_num_threads();
    const long stop = rows * (thread + 1) / count;
    double* whole = parts.data() + 2 * channels * thread;
    std::vector<float> run(2 * channels);
    float *a = run.data(), *b = a + channels;
    for (long begin = rows * thread / count; begin < stop; begin += RUN) {
      const long end = std::min(begin + RUN, stop);
      std::fill(run.begin(), run.end(), 0.f);
      long row = begin;
      for (; row + 4 <= end; row += 4) {
#pragma omp simd
        for (long c = 0; c < channels; c++) {
          float a0, a1, a2, a3, b0, b1, b2, b3;
          value(row, c, a0, b0);
          value(row + 1, c, a1, b1);
          value(row + 2, c, a2, b2);
          value(row + 3, c, a3, b3);
          a[c] += (a0 + a1) + (a2 + a3);
          b[c] += (b0 + b1) + (b2 + b3);
        }
      }
      for (; row < end; row++) {
#pragma omp simd
        for (long c = 0; c < channels; c++) {
          float a0, b0;
          value(row, c, a0, b0);
          a[c] += a0;
          b[c] += b0;
        }
      }
      for (long c = 0; c < 2 * channels; c++) whole[c] += run[c];
    }
  }
  for (long c = 0; c < channels; c++) {
    first[c] = second[c] = 0.0;
    for (long thread = 0; thread < threads; thread++) {
      const double* whole = parts.data() + 2 * channels * thread;
      first[c] += whole[c];
      second[c] += whole[channels + c];
    }
  }
}

template <class Put>
void each_row(long rows, long channels, int threads, Put put) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long row = 0; row < rows; row++) {
#pragma omp simd
    for (long c = 0; c < channels; c++) put(row, c);
  }
}

// Mean and (biased) variance per channel. Distances are taken from the first row, so that a mean
// far from 0 costs no digits.
template <class T>
void measure(const T* x, long rows, long channels, int threads, float* mean, float* variance) {
  std::vector<float> origin(channels);
  std::vector<double> sums(channels), squares(channels);
  for (long c = 0; c < channels; c++) origin[c] = widen(x[c]);
  const float* from = origin.data();
  sum_rows(rows, channels, threads, sums.data(), squares.data(),
           [=](long row, long c, float& a, float& b) {
             const float distance = widen(x[row * channels + c]) - from[c];
             a = distance;
             b = distance * distance;
           });
  for (long c = 0; c < channels; c++) {
    const double distance = sums[c] / rows, spread = squares[c] / rows - distance * distance;
    mean[c] = float(origin[c] + distance);
    variance[c] = float(spread < 0.0 ? 0.0 : spread);
  }
}

// y = relu(norm(x)), or relu(norm(x) + other) where there is another.
template <class T>
void normalise(const T* x, const T* other, const float* scale, const float* shift, long rows,
               long channels, int threads, T* y) {
  if (other)
    each_row(rows, channels, threads, [=](long row, long c) {
      const long i = row * channels + c;
      y[i] = narrow<T>(relu(widen(x[i]) * scale[c] + shift[c] + widen(other[i])));
    });
  else
    each_row(rows, channels, threads, [=](long row, long c) {
      const long i = row * channels + c;
      y[i] = narrow<T>(relu(widen(x[i]) * scale[c] + shift[c]));
    });
}

// For the gradients of a norm's bias and weight: the sums over the rows of what of g passes the
// ReLU, and of that times (x - mean). What passes is told from y, or without it from x.
template <class T>
void reduce(const T* g, const T* x, const T* y, const float* scale, const float* shift,
            const float* mean, long rows, long channels, int threads, double* bias,
            double* weight) {
  if (y)
    sum_rows(rows, channels, threads, bias, weight, [=](long row, long c, float& a, float& b) {
      const long i = row * channels + c;
      const float value = widen(x[i]), out = widen(y[i]), gradient = widen(g[i]);
      a = out > 0.f ? gradient : 0.f;
      b = a * (value - mean[c]);
    });
  else
    sum_rows(rows, channels, threads, bias, weight, [=](long row, long c, float& a, float& b) {
      const long i = row * channels + c;
      const float value = widen(x[i]), gradient = widen(g[i]);
      a = value * scale[c] + shift[c] > 0.f ? gradient : 0.f;
      b = a * (value - mean[c]);
    });
}

// dx = scale * passed + slope * x + offset, the last two being what the statistics owe; with y
// also dother = passed.
template <class T>
void differentiate(const T* g, const T* x, const T* y, const float* scale, const float* shift,
                   const float* slope, const float* offset, long rows, long channels, int threads,
                   T* dx, T* dother) {
  if (y)
    each_row(rows, channels, threads, [=](long row, long c) {
      const long i = row * channels + c;
      const float out = widen(y[i]), gradient = widen(g[i]);
      const float passed = out > 0.f ? gradient : 0.f;
      dother[i] = narrow<T>(passed);
      dx[i] = narrow<T>(scale[c] * passed + (slope[c] * widen(x[i]) + offset[c]));
    });
  else
    each_row(rows, channels, threads, [=](long row, long c) {
      const long i = row * channels + c;
      const float value = widen(x[i]), gradient = widen(g[i]);
      const float passed = value * scale[c] + shift[c] > 0.f ? gradient : 0.f;
      dx[i] = narrow<T>(scale[c] * passed + (slope[c] * value + offset[c]));
    });
}

// Splits are s = relu(norm(x)), radix-major: channel r * width + c. They are never stored.

// Per image and channel the sum over its pixels of s, or with g of g * s.
template <class T>
void squeeze(const T* x, const T* g, const float* scale, const float* shift, long images,
             long pixels, long radix, long width, int threads, float* sums) {
  const long channels = radix * width, blocks = (width + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) collapse(3) schedule(static)
  for (long image = 0; image < images; image++)
    for (long r = 0; r < radix; r++)
      for (long block = 0; block < blocks; block++) {
        const long start = block * BLOCK, first = r * width + start;
        const long count = std::min(BLOCK, width - start);
        const float *scales = scale + first, *shifts = shift + first;
        double whole[BLOCK] = {};
        for (long begin = 0; begin < pixels; begin += RUN) {
          float run[BLOCK] = {};
          for (long p = begin; p < std::min(begin + RUN, pixels); p++) {
            const T* row = x + (image * pixels + p) * channels + first;
            if (g) {
              const T* gradient = g + (image * pixels + p) * width + start;
#pragma omp simd
              for (long c = 0; c < count; c++)
                run[c] += relu(widen(row[c]) * scales[c] + shifts[c]) * widen(gradient[c]);
            } else {
#pragma omp simd
              for (long c = 0; c < count; c++)
                run[c] += relu(widen(row[c]) * scales[c] + shifts[c]);
            }
          }
          for (long c = 0; c < count; c++) whole[c] += run[c];
        }
        for (long c = 0; c < count; c++) sums[image * channels + first + c] = float(whole[c]);
      }
}

// y = the sum over r of attention * s.
template <class T>
void join(const T* x, const float* scale, const float* shift, const float* attention, long images,
          long pixels, long radix, long width, int threads, T* y) {
  const long channels = radix * width;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> sum(width);
    float* joined = sum.data();
#pragma omp for collapse(2) schedule(static)
    for (long image = 0; image < images; image++)
      for (long p = 0; p < pixels; p++) {
        for (long r = 0; r < radix; r++) {
          const T* row = x + (image * pixels + p) * channels + r * width;
          const float *scales = scale + r * width, *shifts = shift + r * width;
          const float* weights = attention + image * channels + r * width;
          if (r == 0) {
#pragma omp simd
            for (long c = 0; c < width; c++)
              joined[c] = relu(widen(row[c]) * scales[c] + shifts[c]) * weights[c];
          } else {
#pragma omp simd
            for (long c = 0; c < width; c++)
              joined[c] += relu(widen(row[c]) * scales[c] + shifts[c]) * weights[c];
          }
        }
        T* out = y + (image * pixels + p) * width;
#pragma omp simd
        for (long c = 0; c < width; c++) out[c] = narrow<T>(joined[c]);
      }
  }
}

// As reduce, where the gradient that reaches a split is g * attention + owed, the second being
// what its pooling owes.
template <class T>
void reduce_splits(const T* g, const T* x, const float* scale, const float* shift,
                   const float* mean, const float* attention, const float* owed, long images,
                   long pixels, long radix, long width, int threads, double* bias,
                   double* weight) {
  const long channels = radix * width;
  std::vector<double> parts(2 * images * channels, 0.0);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> run(2 * width);
    float *a = run.data(), *b = a + width;
#pragma omp for collapse(2) schedule(static)
    for (long image = 0; image < images; image++)
      for (long r = 0; r < radix; r++) {
        const long first = r * width, place = image * channels + first;
        const float *scales = scale + first, *shifts = shift + first, *means = mean + first;
        const float *weights = attention + place, *owes = owed + place;
        double* whole = parts.data() + 2 * place;
        for (long begin = 0; begin < pixels; begin += RUN) {
          std::fill(run.begin(), run.end(), 0.f);
          for (long p = begin; p < std::min(begin + RUN, pixels); p++) {
            const T* row = x + (image * pixels + p) * channels + first;
            const T* gradient = g + (image * pixels + p) * width;
#pragma omp simd
            for (long c = 0; c < width; c++) {
              const float value = widen(row[c]), reaching = widen(gradient[c]) * weights[c] + owes[c];
              const float passed = value * scales[c] + shifts[c] > 0.f ? reaching : 0.f;
              a[c] += passed;
              b[c] += passed * (value - means[c]);
            }
          }
          for (long c = 0; c < 2 * width; c++) whole[c] += run[c];
        }
      }
  }
  for (long c = 0; c < channels; c++) {
    bias[c] = weight[c] = 0.0;
    for (long image = 0; image < images; image++) {
      const double* whole = parts.data() + 2 * (image * channels + c / width * width);
      bias[c] += whole[c % width];
      weight[c] += whole[width + c % width];
    }
  }
}

// As differentiate, for the gradient of reduce_splits.
template <class T>
void differentiate_splits(const T* g, const T* x, const float* scale, const float* shift,
                          const float* slope, const float* offset, const float* attention,
                          const float* owed, long images, long pixels, long radix, long width,
                          int threads, T* dx) {
  const long channels = radix * width;
#pragma omp parallel for num_threads(threads) collapse(2) schedule(static)
  for (long image = 0; image < images; image++)
    for (long p = 0; p < pixels; p++)
      for (long r = 0; r < radix; r++) {
        const long first = r * width, place = (image * pixels + p) * channels + first;
        const T *row = x + place, *gradient = g + (image * pixels + p) * width;
        const float *scales = scale + first, *shifts = shift + first;
        const float *slopes = slope + first, *offsets = offset + first;
        const float* weights = attention + image * channels + first;
        const float* owes = owed + image * channels + first;
        T* out = dx + place;
#pragma omp simd
        for (long c = 0; c < width; c++) {
          const float value = widen(row[c]), reaching = widen(gradient[c]) * weights[c] + owes[c];
          const float passed = value * scales[c] + shifts[c] > 0.f ? reaching : 0.f;
          out[c] = narrow<T>(scales[c] * passed + (slopes[c] * value + offsets[c]));
        }
      }
}

}  // namespace

// Every function for both types. C has no templates, and ctypes calls C.
#define FORMS(TYPE, T)                                                                             \
  void measure_##TYPE(const T* x, long rows, long channels, int threads, float* mean,              \
                      float* variance) {                                                           \
    measure(x, rows, channels, threads, mean, variance);                                           \
  }                                                                                                \
  void normalise_##TYPE(const T* x, const T* other, const float* scale, const float* shift,        \
                        long rows, long channels, int threads, T* y) {                             \
    normalise(x, other, scale, shift, rows, channels, threads, y);                                 \
  }                                                                                                \
  void reduce_##TYPE(const T* g, const T* x, const T* y, const float* scale, const float* shift,   \
                     const float* mean, long rows, long channels, int threads, double* bias,       \
                     double* weight) {                                                             \
    reduce(g, x, y, scale, shift, mean, rows, channels, threads, bias, weight);                    \
  }                                                                                                \
  void differentiate_##TYPE(const T* g, const T* x, const T* y, const float* scale,                \
                            const float* shift, const float* slope, const float* offset,           \
                            long rows, long channels, int threads, T* dx, T* dother) {             \
    differentiate(g, x, y, scale, shift, slope, offset, rows, channels, threads, dx, dother);      \
  }                                                                                                \
  void squeeze_##TYPE(const T* x, const T* g, const float* scale, const float* shift, long images, \
                      long pixels, long radix, long width, int threads, float* sums) {             \
    squeeze(x, g, scale, shift, images, pixels, radix, width, threads, sums);                      \
  }                                                                                                \
  void join_##TYPE(const T* x, const float* scale, const float* shift, const float* attention,     \
                   long images, long pixels, long radix, long width, int threads, T* y) {          \
    join(x, scale, shift, attention, images, pixels, radix, width, threads, y);                    \
  }                                                                                                \
  void reduce_splits_##TYPE(const T* g, const T* x, const float* scale, const float* shift,        \
                            const float* mean, const float* attention, const float* owed,          \
                            long images, long pixels, long radix, long width, int threads,         \
                            double* bias, double* weight) {                                        \
    reduce_splits(g, x, scale, shift, mean, attention, owed, images, pixels, radix, width,         \
                  threads, bias, weight);                                                          \
  }                                                                                                \
  void differentiate_splits_##TYPE(const T* g, const T* x, const float* scale, const float* shift, \
                                   const float* slope, const float* offset,                        \
                                   const float* attention, const float* owed, long images,         \
                                   long pixels, long radix, long width, int threads, T* dx) {      \
    differentiate_splits(g, x, scale, shift, slope, offset, attention, owed, images, pixels,       \
                         radix, width, threads, dx);                                               \
  }

extern "C" {
FORMS(bfloat16, Bfloat16)
FORMS(float32, float)
}
