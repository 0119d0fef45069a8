// Where a training step's time goes, by group of work: `llmft train --profile` prints it and writes it to
// profile.csv. All figures are per step; the groups and the gaps between them sum to the step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace llmft {

struct LedgerRow {
  std::string group;
  double calls = 0;
  double seconds = 0;
  double flops = 0;
  double bytes = 0;
};

struct Ledger {
  int64_t steps = 0;  // that were averaged
  double seconds = 0;
  double gaps = 0;  // the device had nothing to do: the host was late, or kernels took turns
  std::vector<LedgerRow> rows;
};

// What the device can do at most, for the share of the roofline: the larger of FLOPs at the peak and bytes at
// the peak, over the time taken.
struct LedgerPeaks {
  double tflops = 0;
  double memory_tb_s = 0;
};

// Longest first.
std::string ledger_text(const Ledger& ledger, const std::optional<LedgerPeaks>& peaks);
// group,calls,seconds,share,flops,bytes,tflops,tb_s,roofline; last rows gaps and step. Atomic.
void write_ledger(const std::filesystem::path& path, const Ledger& ledger,
                  const std::optional<LedgerPeaks>& peaks);

}  // namespace llmft
