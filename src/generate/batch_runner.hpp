// Forward passes and sampling for rows that the engine has chosen: uploads them, runs the model, hands back
// the tokens. Decoding steps come in a few sizes, padded, so that a GPU can replay recorded ones.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "llmft/generate/inference_model.hpp"
#include "llmft/generate/loaded_model.hpp"

namespace llmft {

struct StepRow {
  int32_t token;
  int32_t position;
  int32_t slot;
  int32_t adapted;
};

class BatchRunner {
 public:
  BatchRunner(LoadedModel& model, const InferenceLimits& limits, int64_t max_sequences);

  // Prompt pieces one after another, each of one slot, better those first that start at position 0;
  // afterwards tokens are drawn for `sampled` (indices of rows), by draws.
  void prefill(std::span<const StepRow> rows, std::span<const int32_t> sampled,
               std::span<const SampleRow> draws);
  // One row a sequence, each drawn from.
  void decode(std::span<const StepRow> rows, std::span<const SampleRow> draws);
  // The tokens drawn since the last call, in order: waits for them.
  std::vector<int32_t> collect();

  void copy_prefix(int64_t from, int64_t to, int64_t count) { model_.copy_prefix(from, to, count); }
  // The tokens that count as seen for a slot's repetition penalty.
  void set_seen(int64_t slot, std::span<const int32_t> tokens);

  const InferenceLimits& limits() const { return model_.limits(); }

 private:
  struct Inputs {
    Indices tokens, positions, slots, adapted;
    const SampleRow* draws;
  };
  Inputs upload(std::span<const StepRow> rows, std::span<const SampleRow> draws, int64_t padded);
  int64_t padded(int64_t rows) const;

  LoadedModel& loaded_;
  InferenceModel model_;
  std::unique_ptr<StepRecords> records_;  // of decoding: of this runner's buffers
  int64_t max_rows_;
  int64_t max_sequences_;
  Buffer inputs_;  // of one pass: see upload()
  Buffer lists_;   // cu_seqlens, sampled rows
  Buffer drawn_;   // i32 [2 max_sequences]: decode's, prefill's
  Buffer seen_;
  std::vector<int32_t> staging_;
  int64_t decoded_ = 0;
  int64_t prefilled_ = 0;
};

}  // namespace llmft
