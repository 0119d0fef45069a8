#include "step_profile.hpp"

#include "llmft/base/log.hpp"
#include "llmft/report/device_peaks.hpp"

namespace llmft {
namespace {

const char* linear_name(Role role) {
  switch (role) {
    case Role::qkv:
      return "qkv";
    case Role::o:
      return "o";
    case Role::gate_up:
      return "gate_up";
    case Role::down:
      return "down";
    default:
      return nullptr;
  }
}

std::vector<NamedLinear> linears_of(const LlamaTensors& tensors) {
  std::vector<NamedLinear> linears;
  for (const PackedTensor& t : tensors.block(tensors.layer_block(0)).tensors)
    if (const char* name = linear_name(t.role)) linears.push_back({name, t.rows, t.cols, t.extension});
  const LlamaConfig& c = tensors.config();
  linears.push_back({"lm_head", c.vocab_size, c.hidden_size, 0});
  return linears;
}

}  // namespace

std::optional<LedgerPeaks> peaks_of(const TrainOptions& o, const Device& device) {
  LedgerPeaks peaks;
  if (auto known = find_device_peaks(device.name()))
    peaks = {known->tflops(name_of(o.precision)), known->memory_tb_s};
  if (o.peak_tflops > 0) peaks.tflops = o.peak_tflops;
  if (o.peak_tb_s > 0) peaks.memory_tb_s = o.peak_tb_s;
  if (peaks.tflops <= 0 && peaks.memory_tb_s <= 0) return std::nullopt;
  return peaks;
}

StepProfile::StepProfile(const TrainOptions& options, const LlamaTensors& tensors, Device& device,
                         std::unique_ptr<Ops>& ops, std::unique_ptr<Comm>& comm)
    : o_(options), device_(device), profile_(device) {
  auto profiled = std::make_unique<ProfiledOps>(std::move(ops), linears_of(tensors));
  ops_ = profiled.get();
  ops = std::move(profiled);
  comm = make_profiled_comm(std::move(comm), device);
}

void StepProfile::step_begins(int64_t started) {
  if (started != o_.timing_warmup) return;
  device_.set_profile(&profile_);
  profile_.begin();
}

void StepProfile::batch_begins(double tokens, double sum_len_squared) {
  ops_->set_attention_pairs((sum_len_squared + tokens) / 2);
}

void StepProfile::step_ends(bool next_is_step) {
  if (!profile_.counting()) return;
  profile_.step_done();
  if (++measured_ == o_.profile_steps || !next_is_step) stop();
}

void StepProfile::stop() {
  profile_.end();
  device_.set_profile(nullptr);
}

void StepProfile::report(const std::filesystem::path& run, bool is_root) {
  if (reported_) return;
  reported_ = true;
  if (profile_.counting()) stop();
  if (measured_ == 0) {
    if (is_root)
      log::warn(
          "--profile: the run ended within its {} warm-up steps; give more --steps, or a smaller "
          "report.timing_warmup",
          o_.timing_warmup);
    return;
  }
  Profile::Result result = profile_.result();
  if (!is_root) return;
  auto steps = static_cast<double>(result.steps);
  Ledger ledger{result.steps, result.seconds / steps, result.gaps / steps, {}};
  for (const Profile::Group& g : result.groups)
    ledger.rows.push_back(
        {g.name, static_cast<double>(g.calls) / steps, g.seconds / steps, g.flops / steps, g.bytes / steps});
  auto peaks = peaks_of(o_, device_);
  write_ledger(run / "profile.csv", ledger, peaks);
  fmt::print("{}", ledger_text(ledger, peaks));
}

}  // namespace llmft
