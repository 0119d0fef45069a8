#include "batch_runner.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace llmft {
namespace {

constexpr size_t kWords = sizeof(SampleRow) / sizeof(int32_t);

Buffer ints(Device& device, int64_t count) {
  return {device, static_cast<size_t>(count) * sizeof(int32_t), MemoryPart::workspace};
}

int32_t* words(const Buffer& buffer, int64_t first = 0) {
  return static_cast<int32_t*>(buffer.data()) + first;
}

}  // namespace

BatchRunner::BatchRunner(LoadedModel& model, const InferenceLimits& limits, int64_t max_sequences)
    : loaded_(model),
      model_(model.tensors(), model.recipe(), model.ops(), model.decode(), model.store(), limits),
      records_(model.decode().make_records()),
      max_rows_(limits.max_rows),
      max_sequences_(max_sequences) {
  Device& device = model.device();
  inputs_ = ints(device, 4 * max_rows_ + static_cast<int64_t>(kWords) * max_sequences);
  lists_ = ints(device, max_rows_ + 1 + max_sequences);
  drawn_ = ints(device, 2 * max_sequences);
  seen_ = ints(device, limits.slots * seen_words(model.config().vocab_size));
  device.zero(seen_.data(), seen_.bytes());
}

int64_t BatchRunner::padded(int64_t rows) const {
  if (!loaded_.decode().asynchronous()) return rows;
  int64_t unit = rows <= 4 ? 1 : rows <= 32 ? 8 : 32;
  return std::min((rows + unit - 1) / unit * unit, max_sequences_);
}

// Draws first, so that their place does not depend on the number of rows; then a quarter each of tokens,
// positions, slots, adapted. Padding rows are of no slot. One copy.
BatchRunner::Inputs BatchRunner::upload(std::span<const StepRow> rows, std::span<const SampleRow> draws,
                                        int64_t padded_rows) {
  auto n = static_cast<size_t>(padded_rows);
  size_t first = kWords * draws.size();
  staging_.assign(first + 4 * n, 0);
  if (!draws.empty()) std::memcpy(staging_.data(), draws.data(), draws.size_bytes());
  for (size_t i = 0; i < n; ++i) {
    StepRow row = i < rows.size() ? rows[i] : StepRow{0, 0, -1, 0};
    staging_[first + i] = row.token;
    staging_[first + n + i] = row.position;
    staging_[first + 2 * n + i] = row.slot;
    staging_[first + 3 * n + i] = row.adapted;
  }
  loaded_.device().copy_to_device(inputs_.data(), staging_.data(), staging_.size() * sizeof(int32_t));
  auto list = [&](size_t quarter) {
    return Indices{words(inputs_, static_cast<int64_t>(first + quarter * n)), padded_rows};
  };
  return {list(0), list(1), list(2), list(3), reinterpret_cast<const SampleRow*>(inputs_.data())};
}

void BatchRunner::prefill(std::span<const StepRow> rows, std::span<const int32_t> sampled,
                          std::span<const SampleRow> draws) {
  check(sampled.size() == draws.size(), "a row is sampled without saying how");
  auto T = static_cast<int64_t>(rows.size());
  Inputs in = upload(rows, draws, T);
  bool any_adapted = false;
  int64_t longest = 0, whole = 0;
  std::vector<int32_t> lists;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (whole == static_cast<int64_t>(i)) {
      bool begins = i == 0 || rows[i].slot != rows[i - 1].slot;
      if (begins && rows[i].position == 0) lists.push_back(static_cast<int32_t>(i));
      if (!begins || rows[i].position == 0) ++whole;
    }
    any_adapted = any_adapted || rows[i].adapted != 0;
    longest = std::max<int64_t>(longest, rows[i].position + 1);
  }
  if (whole != 0) lists.push_back(static_cast<int32_t>(whole));
  auto bounds = static_cast<int64_t>(lists.size());
  lists.insert(lists.end(), sampled.begin(), sampled.end());
  loaded_.device().copy_to_device(lists_.data(), lists.data(), lists.size() * sizeof(int32_t));
  model_.forward({in.tokens,
                  in.positions,
                  in.slots,
                  {words(lists_), bounds},
                  any_adapted ? in.adapted : Indices{},
                  whole,
                  longest});
  prefilled_ = static_cast<int64_t>(sampled.size());
  if (prefilled_ == 0) return;
  Tensor logits = model_.logits({words(lists_, bounds), prefilled_});
  loaded_.decode().sample(logits, in.draws,
                          seen_.view(DType::i32, model_.limits().slots, seen_words(logits.cols)),
                          words(drawn_, max_sequences_));
}

void BatchRunner::decode(std::span<const StepRow> rows, std::span<const SampleRow> draws) {
  check(rows.size() == draws.size(), "a row is decoded without saying how");
  decoded_ = static_cast<int64_t>(rows.size());
  int64_t n = padded(decoded_);
  std::vector<SampleRow> all(draws.begin(), draws.end());
  all.resize(static_cast<size_t>(n));
  Inputs in = upload(rows, all, n);
  bool any_adapted = false;
  int64_t longest = 0;
  for (const StepRow& row : rows) {
    any_adapted = any_adapted || row.adapted != 0;
    longest = std::max<int64_t>(longest, row.position + 1);
  }
  // a record serves all lengths up to a power of two
  longest =
      std::min(model_.limits().context,
               static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(longest, 256)))));
  uint64_t key =
      static_cast<uint64_t>(n) << 40 | static_cast<uint64_t>(longest) << 1 | (any_adapted ? 1u : 0u);
  records_->run(key, [&] {
    model_.forward({in.tokens, in.positions, in.slots, {}, any_adapted ? in.adapted : Indices{}, 0, longest});
    Tensor logits = model_.logits({nullptr, n});
    loaded_.decode().sample(logits, in.draws,
                            seen_.view(DType::i32, model_.limits().slots, seen_words(logits.cols)),
                            words(drawn_));
  });
}

std::vector<int32_t> BatchRunner::collect() {
  std::vector<int32_t> out(static_cast<size_t>(decoded_ + prefilled_));
  Device& device = loaded_.device();
  auto bytes = [](int64_t n) { return static_cast<size_t>(n) * sizeof(int32_t); };
  device.copy_to_host(out.data(), words(drawn_), bytes(decoded_));
  device.copy_to_host(out.data() + decoded_, words(drawn_, max_sequences_), bytes(prefilled_));
  device.synchronize();
  decoded_ = prefilled_ = 0;
  return out;
}

void BatchRunner::set_seen(int64_t slot, std::span<const int32_t> tokens) {
  std::vector<uint32_t> marks(static_cast<size_t>(seen_words(loaded_.config().vocab_size)));
  for (int32_t token : tokens) marks[static_cast<size_t>(token) / 32] |= 1u << (token % 32);
  loaded_.device().copy_to_device(words(seen_, slot * static_cast<int64_t>(marks.size())), marks.data(),
                                  marks.size() * sizeof(uint32_t));
}

}  // namespace llmft
