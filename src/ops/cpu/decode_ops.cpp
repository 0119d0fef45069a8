// Plain loops. Sampling counts probability in integers, units of 2^-40 of the likeliest token, so that no
// order of additions can change what is drawn.
#include "llmft/ops/decode_ops.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu_ops.hpp"
#include "exp.hpp"
#include "lanes.hpp"
#include "rows.hpp"

namespace llmft {
namespace {

constexpr float kFarthest = 32;  // nats from the likeliest: what lies farther has no mass

struct Candidate {
  uint64_t rank;  // distance from the likeliest, in 2^-28 nats: what a cut cannot tell apart
  int32_t token;
  uint64_t mass;
};

bool ranks_before(const Candidate& a, const Candidate& b) {
  return a.rank < b.rank || (a.rank == b.rank && a.token < b.token);
}

uint64_t total_mass(const std::vector<Candidate>& candidates) {
  uint64_t total = 0;
  for (const Candidate& c : candidates) total += c.mass;
  return total;
}

// Cuts the ranked candidates after the first n and those that tie with the last of these.
void keep(std::vector<Candidate>& ranked, size_t n) {
  while (n < ranked.size() && ranked[n].rank == ranked[n - 1].rank) ++n;
  ranked.resize(n);
}

int32_t draw(const float* logits, int64_t vocabulary, const SampleRow& row) {
  auto inverse = 1.0f / row.temperature;
  float top = *std::max_element(logits, logits + vocabulary);
  std::vector<Candidate> ranked;
  for (int64_t i = 0; i < vocabulary; ++i) {
    float distance = (top - logits[i]) * inverse;
    if (!(distance < kFarthest)) continue;
    auto mass = static_cast<uint64_t>(std::exp(-static_cast<double>(distance)) * 0x1.0p40);
    ranked.push_back({static_cast<uint64_t>(distance * 0x1.0p28f), static_cast<int32_t>(i), mass});
  }
  if (ranked.empty()) return 0;  // not a number among them
  bool cuts = row.top_k > 0 || row.top_p < 1 || row.min_p > 0;
  if (cuts) {
    std::sort(ranked.begin(), ranked.end(), ranks_before);
    auto k = static_cast<size_t>(row.top_k);
    if (k > 0 && k < ranked.size()) keep(ranked, k);
    if (row.top_p < 1) {
      auto wanted =
          static_cast<uint64_t>(static_cast<double>(row.top_p) * static_cast<double>(total_mass(ranked)));
      size_t n = 0;
      for (uint64_t sum = 0; n < ranked.size() && sum < std::max<uint64_t>(wanted, 1);)
        sum += ranked[n++].mass;
      keep(ranked, n);
    }
    auto least = static_cast<uint64_t>(static_cast<double>(row.min_p) * 0x1.0p40);
    while (ranked.back().mass < least) ranked.pop_back();
    std::sort(ranked.begin(), ranked.end(), [](auto& a, auto& b) { return a.token < b.token; });
  }
  uint64_t random = uint64_t{row.random_high} << 32 | row.random_low;
  __extension__ using Wide = unsigned __int128;
  auto target = static_cast<uint64_t>((Wide{random} * total_mass(ranked)) >> 64);
  for (const Candidate& c : ranked) {
    if (target < c.mass) return c.token;
    target -= c.mass;
  }
  internal_error("sampling ran past the last token");
}

class NoRecords final : public StepRecords {
 public:
  void run(uint64_t, const std::function<void()>& work) override { work(); }
};

class CpuDecodeOps final : public DecodeOps {
 public:
  CpuDecodeOps(Device& device, int threads) : ops_(device, MatmulMode::f32, threads) {}

  Device& device() override { return ops_.device(); }
  bool takes_rows(int64_t, DType) const override { return false; }
  std::unique_ptr<StepRecords> make_records() override { return std::make_unique<NoRecords>(); }
  bool asynchronous() const override { return false; }

  void rope_append(const AttentionShape& shape, const CacheRows& rows, const Tensor& table, const Tensor& qkv,
                   const KvCache& cache) override {
    int64_t dim = shape.head_dim, q = shape.heads * dim, kv = shape.kv_heads * dim;
    check(qkv.cols == q + 2 * kv && rows.slots.size == qkv.rows && rows.positions.size == qkv.rows &&
              cache.k.cols == dim && cache.k.dtype == qkv.dtype,
          "rope_append: shapes differ");
    for (int64_t t = 0; t < qkv.rows; ++t) {
      if (rows.slots.data[t] < 0) continue;
      ops_.rope(qkv.row_range(t, 1).col_range(0, q + kv), {rows.positions.data + t, 1}, table,
                Direction::forward);
      for (int64_t head = 0; head < shape.kv_heads; ++head) {
        int64_t to = row_of(shape, cache, rows, t, head);
        for (auto [values, first] : {std::pair(cache.k, q), std::pair(cache.v, q + kv)}) {
          Tensor from = qkv.row_range(t, 1).col_range(first + head * dim, dim);
          std::memcpy(values.row_range(to, 1).data, from.data, from.bytes());
        }
      }
    }
  }

  void attend(const AttentionShape& shape, const CacheRows& rows, int64_t longest, const Tensor& q,
              const KvCache& cache, const Tensor& out) override {
    check(q.cols == shape.heads * shape.head_dim && out.cols == q.cols && out.rows == q.rows &&
              rows.slots.size == q.rows && q.dtype == cache.k.dtype,
          "attend: shapes differ");
    visit_dtype(q.dtype, [&]<class S>(S) { attend_rows<S>(shape, rows, longest, q, cache, out); });
  }

  void copy_slot(const AttentionShape& shape, const KvCache& cache, int64_t from, int64_t to,
                 int64_t count) override {
    for (int64_t head = 0; head < shape.kv_heads; ++head)
      for (const Tensor& x : {cache.k, cache.v}) {
        Tensor source = x.row_range((from * shape.kv_heads + head) * cache.context, count);
        device().copy(x.row_range((to * shape.kv_heads + head) * cache.context, count).data, source.data,
                      source.bytes());
      }
  }

  void gate_rows(const Tensor& tail, Indices wanted) override {
    check(wanted.size == tail.rows, "gate_rows: shapes differ");
    for (int64_t t = 0; t < tail.rows; ++t)
      if (wanted.data[t] == 0) std::memset(tail.row_range(t, 1).data, 0, tail.row_range(t, 1).bytes());
  }

  void norm_linear(const Tensor& x, const Tensor& norm, float eps, const LinearWeight& w, Indices adapted,
                   const Tensor& y) override {
    Tensor in = normed(x, norm, eps, w, adapted);
    ops_.matmul(Layout::nt, in, w.w_ext.row_range(0, w.n()), y, 1, 0, {});
  }

  void norm_swiglu(const Tensor& x, const Tensor& norm, float eps, const LinearWeight& w, Indices adapted,
                   const Tensor& h) override {
    Tensor gate_up = in(gate_up_, h.dtype, x.rows, w.n());
    norm_linear(x, norm, eps, w, adapted, gate_up);
    ops_.swiglu(gate_up, h);
  }

  void linear_add(const Tensor& x, const LinearWeight& w, Indices adapted, const Tensor& y) override {
    Tensor x_ext = in(x_ext_, x.dtype, x.rows, w.w_ext.cols);
    ops_.convert(x, x_ext.col_range(0, w.k()), 1);
    fill_tail(x_ext, w, adapted);
    ops_.matmul(Layout::nt, x_ext, w.w_ext.row_range(0, w.n()), y, 1, 1, y);
  }

  void sample(const Tensor& logits, const SampleRow* rows, const Tensor& seen, int32_t* tokens) override {
    std::vector<float> values(static_cast<size_t>(logits.cols));
    for (int64_t t = 0; t < logits.rows; ++t) {
      const float* row = logits.row<float>(t);
      int32_t* marks = rows[t].seen < 0 ? nullptr : seen.row<int32_t>(rows[t].seen);
      if (marks != nullptr && rows[t].penalty != 1) {
        std::copy_n(row, logits.cols, values.begin());
        for (int64_t i = 0; i < logits.cols; ++i)
          if ((static_cast<uint32_t>(marks[i / 32]) >> (i % 32) & 1u) != 0) {
            float& x = values[static_cast<size_t>(i)];
            x = x > 0 ? x / rows[t].penalty : x * rows[t].penalty;
          }
        row = values.data();
      }
      tokens[t] = rows[t].temperature > 0
                      ? draw(row, logits.cols, rows[t])
                      : static_cast<int32_t>(std::max_element(row, row + logits.cols) - row);
      if (marks != nullptr)
        marks[tokens[t] / 32] =
            static_cast<int32_t>(static_cast<uint32_t>(marks[tokens[t] / 32]) | 1u << (tokens[t] % 32));
    }
  }

 private:
  static int64_t row_of(const AttentionShape& shape, const KvCache& cache, const CacheRows& rows, int64_t t,
                        int64_t head) {
    int64_t position = rows.positions.data[t];
    check(position >= 0 && position < cache.context, "cache: position outside the context");
    return (rows.slots.data[t] * shape.kv_heads + head) * cache.context + position;
  }

  template <class S>
  void attend_rows(const AttentionShape& shape, const CacheRows& rows, int64_t longest, const Tensor& q,
                   const KvCache& cache, const Tensor& out) {
    int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads;
    std::vector<float> scores(static_cast<size_t>(longest)), query(static_cast<size_t>(dim)),
        key(static_cast<size_t>(dim)), sum(static_cast<size_t>(dim));
    float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    for (int64_t t = 0; t < q.rows; ++t) {
      if (rows.slots.data[t] < 0) continue;
      int64_t count = rows.positions.data[t] + 1;
      check(count <= longest, "attend: a row is longer than was said");
      for (int64_t head = 0; head < shape.heads; ++head) {
        int64_t first = row_of(shape, cache, rows, t, head / group) - rows.positions.data[t];
        const float* q_row = load(q.row<S>(t) + head * dim, dim, query.data());
        for (int64_t j = 0; j < count; ++j)
          scores[static_cast<size_t>(j)] =
              scale * dot(q_row, load(cache.k.row<S>(first + j), dim, key.data()), dim);
        float top = largest(scores.data(), count);
        float total = 0;
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (int64_t j = 0; j < count; ++j) {
          float p = exp_f32(scores[static_cast<size_t>(j)] - top);
          total += p;
          const float* v = load(cache.v.row<S>(first + j), dim, key.data());
          for (int64_t c = 0; c < dim; ++c) sum[static_cast<size_t>(c)] += p * v[c];
        }
        for (float& x : sum) x /= total;
        store(sum.data(), out.row<S>(t) + head * dim, dim);
      }
    }
  }

  Tensor in(Buffer& buffer, DType type, int64_t rows, int64_t cols) {
    size_t bytes = static_cast<size_t>(rows * cols) * size_of(type);
    if (buffer.bytes() < bytes) {
      buffer = Buffer();
      buffer = Buffer(device(), bytes, MemoryPart::workspace);
    }
    return buffer.view(type, rows, cols);
  }

  void fill_tail(const Tensor& x_ext, const LinearWeight& w, Indices adapted) {
    if (w.extension == 0) return;
    Tensor tail = x_ext.col_range(w.k(), w.extension);
    if (adapted.size == 0) {
      for (int64_t t = 0; t < tail.rows; ++t)
        std::memset(tail.row_range(t, 1).data, 0, tail.row_range(t, 1).bytes());
      return;
    }
    ops_.matmul(Layout::nt, x_ext.col_range(0, w.k()),
                w.w_ext.row_range(w.n(), w.extension).col_range(0, w.k()), tail, 1, 0, {});
    gate_rows(tail, adapted);
  }

  Tensor normed(const Tensor& x, const Tensor& norm, float eps, const LinearWeight& w, Indices adapted) {
    Tensor x_ext = in(x_ext_, x.dtype, x.rows, w.w_ext.cols);
    ops_.norm(x, norm, eps, {}, x_ext.col_range(0, w.k()), in(rstd_, DType::f32, 1, x.rows));
    fill_tail(x_ext, w, adapted);
    return x_ext;
  }

  CpuOps ops_;
  Buffer x_ext_, gate_up_, rstd_;
};

}  // namespace

std::unique_ptr<DecodeOps> make_cpu_decode_ops(Device& device, int threads) {
  return std::make_unique<CpuDecodeOps>(device, threads);
}

}  // namespace llmft
