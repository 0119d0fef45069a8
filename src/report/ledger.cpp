#include "llmft/report/ledger.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"
#include "llmft/report/csv.hpp"

namespace llmft {
namespace {

std::optional<double> rate(double amount, double seconds) {
  if (amount <= 0 || seconds <= 0) return std::nullopt;
  return amount / seconds * 1e-12;
}

std::optional<double> roofline(const LedgerRow& row, const std::optional<LedgerPeaks>& peaks) {
  if (!peaks || row.seconds <= 0 || (row.flops <= 0 && row.bytes <= 0)) return std::nullopt;
  double least = 0;
  if (peaks->tflops > 0) least = row.flops / (peaks->tflops * 1e12);
  if (peaks->memory_tb_s > 0) least = std::max(least, row.bytes / (peaks->memory_tb_s * 1e12));
  if (least <= 0) return std::nullopt;
  return least / row.seconds;
}

// The groups, longest first, then the gaps and the step.
std::vector<LedgerRow> all_rows(const Ledger& ledger) {
  std::vector<LedgerRow> rows = ledger.rows;
  std::stable_sort(rows.begin(), rows.end(),
                   [](const LedgerRow& a, const LedgerRow& b) { return a.seconds > b.seconds; });
  LedgerRow step{"step", 1, ledger.seconds, 0, 0};
  for (const LedgerRow& row : rows) {
    step.flops += row.flops;
    step.bytes += row.bytes;
  }
  rows.push_back({"gaps", 0, ledger.gaps, 0, 0});
  rows.push_back(step);
  return rows;
}

std::string cell(const std::optional<double>& value, const char* unit, double factor = 1) {
  return value ? fmt::format("{:.{}f}{}", *value * factor, *value * factor < 10 ? 2 : 1, unit) : "";
}

std::vector<CsvColumn> columns(const LedgerRow& row, const Ledger& ledger,
                               const std::optional<LedgerPeaks>& peaks) {
  double share = ledger.seconds > 0 ? row.seconds / ledger.seconds : 0;
  return {{"group", row.group},
          {"calls", number(row.calls)},
          {"seconds", number(row.seconds)},
          {"share", number(share)},
          {"flops", number(row.flops)},
          {"bytes", number(row.bytes)},
          {"tflops", csv_number(rate(row.flops, row.seconds))},
          {"tb_s", csv_number(rate(row.bytes, row.seconds))},
          {"roofline", csv_number(roofline(row, peaks))}};
}

}  // namespace

std::string ledger_text(const Ledger& ledger, const std::optional<LedgerPeaks>& peaks) {
  std::string text = fmt::format(
      "where a step's time goes, mean of {} step{}\n{:<30} {:>7} {:>10} {:>7} {:>8} {:>8} "
      "{:>9} {:>7} {:>9}\n",
      ledger.steps, ledger.steps == 1 ? "" : "s", "", "calls", "ms", "share", "GFLOP", "GB", "TFLOP/s",
      "TB/s", "roofline");
  for (const LedgerRow& row : all_rows(ledger)) {
    double share = ledger.seconds > 0 ? row.seconds / ledger.seconds : 0;
    text += fmt::format("{:<30} {:>7} {:>10.3f} {:>6.1f}% {:>8.0f} {:>8.2f} {:>9} {:>7} {:>9}\n", row.group,
                        row.calls > 0 ? fmt::format("{:.0f}", row.calls) : "", row.seconds * 1e3, share * 100,
                        row.flops * 1e-9, row.bytes * 1e-9, cell(rate(row.flops, row.seconds), ""),
                        cell(rate(row.bytes, row.seconds), ""), cell(roofline(row, peaks), "%", 100));
  }
  if (!peaks)
    text += "no roofline: the device's peaks are not known (report.peak_tflops, report.peak_tb_s)\n";
  return text;
}

void write_ledger(const std::filesystem::path& path, const Ledger& ledger,
                  const std::optional<LedgerPeaks>& peaks) {
  std::string text = csv_header(columns({}, ledger, peaks)) + "\n";
  for (const LedgerRow& row : all_rows(ledger)) text += csv_row(columns(row, ledger, peaks)) + "\n";
  write_file_atomic(path, text);
}

}  // namespace llmft
