#include "run_folder.hpp"

#include <algorithm>
#include <limits>
#include <set>

#include <nlohmann/json.hpp>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"
#include "llmft/comm/comm.hpp"
#include "llmft/comm/gpu_choice.hpp"
#include "llmft/report/benchmarks.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

// null in run.json
constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

std::optional<double> median(std::vector<double> values) {
  if (values.empty()) return std::nullopt;
  auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

// "c" of "a/b/c" and of "a/b/c/".
std::string folder_name(const fs::path& path) {
  fs::path normal = path.lexically_normal();
  return normal.has_filename() ? normal.filename().string() : normal.parent_path().filename().string();
}

bool run_is_finished(const fs::path& run_json) {
  auto json = nlohmann::json::parse(read_file(run_json), nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.value("finished", false);
}

// That of this rank's device; the first rank of a node counts what its CPUs use.
EnergyMeter energy_meter(const Process& process, const Device& device) {
  if (device.kind() == DeviceKind::cpu)
    return process.local_rank() == 0 ? EnergyMeter::of_cpus() : EnergyMeter::none();
  auto gpu = static_cast<size_t>(gpu_of_rank(process));
  std::vector<GpuInfo> gpus = list_gpus();
  return EnergyMeter::of_gpu(gpu < gpus.size() ? gpus[gpu].bus_id : "");
}

// --max-length of `llmft preprocess`.
std::optional<int64_t> max_length_of(const Manifest& data) {
  auto settings = nlohmann::json::parse(data.settings, nullptr, /*allow_exceptions=*/false);
  if (!settings.is_object() || !settings.contains("max_length")) return std::nullopt;
  return settings.value("max_length", int64_t{0});
}

// Of what decides a run's numbers and speed, not of where it is written.
std::string config_hash(const std::string& yaml) {
  std::string kept;
  for (const std::string& line : split(yaml, '\n')) {
    bool place = line.starts_with("output:") || line.starts_with("results:") || line.starts_with("resume:") ||
                 line.starts_with("overwrite:");
    if (!place) kept += line + "\n";
  }
  return hash_bytes(kept).substr(std::string("xxh3-128:").size(), 16);
}

}  // namespace

RunFolder::RunFolder(const Process& process, const TrainOptions& options, const std::string& config_yaml)
    : process_(process), o_(options), config_yaml_(config_yaml) {
  if (process.is_root()) {
    // found now rather than when the run is over
    if (!o_.results.empty()) check_benchmark_table(o_.results);
    made_ = !fs::exists(o_.output);
    make_writable_folder(o_.output);
    if (fs::exists(path("run.json"))) {
      if (!o_.resume && !o_.overwrite)
        user_error(
            "{}: holds a run already; give --resume to go on with it, --overwrite to delete it, or another "
            "--output",
            o_.output);
      finished_before_ = o_.resume && run_is_finished(path("run.json"));
    }
  }
  finished_before_ = process.broadcast(finished_before_ ? "1" : "0") == "1";
}

RunFolder::~RunFolder() {
  std::error_code ignored;
  if (made_ && !started_) fs::remove(o_.output, ignored);
}

void RunFolder::start(const Device& device) {
  std::vector<std::string> hosts;
  std::set<std::string> seen;
  for (const std::string& host : process_.all_gather(process_.host()))
    if (seen.insert(host).second) hosts.push_back(host);
  report_.command = "train";
  report_.started = utc_now();
  report_.hosts = hosts;
  report_.ranks = process_.size();
  int64_t nodes[] = {process_.local_rank() == 0 ? 1 : 0};
  process_.all_reduce_sum(nodes);
  report_.nodes = nodes[0];
  report_.device = device.name();
  energy_.emplace(energy_meter(process_, device));
  bool named = device.kind() == DeviceKind::cuda || process_.local_rank() == 0;
  for (const std::string& name : process_.all_gather(named ? device.name() : ""))
    if (!name.empty()) devices_.push_back(name);
  report_.build.cuda = cuda_build_version();
  report_.config_hash = config_hash(config_yaml_);
  started_ = true;
  if (!process_.is_root()) return;
  if (!o_.resume)
    for (const char* name : {"run.json", "config.yaml", "steps.csv", "timing.csv", "memory.csv",
                             "profile.csv", "checkpoints", "adapter", "model"})
      fs::remove_all(path(name));
  if (!o_.resume && fs::exists(path("eval") / "eval.csv"))
    fs::remove_all(path("eval"));  // of weights that are gone
  fs::remove(path("requeue"));
  write_file_atomic(path("config.yaml"), config_yaml_);
  write_run_report(path("run.json"), report_);
}

void RunFolder::open_steps(int64_t last_step) {
  if (!process_.is_root()) return;
  if (last_step > 0)
    steps_.emplace(path("steps.csv"), last_step);
  else
    steps_.emplace(path("steps.csv"));
}

void RunFolder::count_step(const StepRow& row, int64_t samples) {
  if (++steps_seen_ < o_.timing_warmup) return;
  energy_->step_done(row.tokens);  // the last one of the warm-up begins the stretch
  if (steps_seen_ <= o_.timing_warmup) return;
  step_seconds_.push_back(row.step_time_s);
  tokens_per_s_.push_back(row.tokens_per_s);
  supervised_per_s_.push_back(row.supervised_tokens_per_s);
  timed_samples_ += samples;
  timed_tokens_ += row.tokens;
  if (row.mfu) mfus_.push_back(*row.mfu);
}

void RunFolder::leave_steps() {
  if (energy_) energy_->pause();
}

void RunFolder::write_step(const StepRow& row) {
  if (steps_) steps_->append(row);
}

void RunFolder::leave_requeue_mark(int64_t step) {
  if (process_.is_root())
    write_file_atomic(path("requeue"), fmt::format("stopped by a signal after step {}\n", step));
}

void RunFolder::finish(const TrainState& state, const Device& device, const Outcome& outcome) {
  std::vector<MemoryRow> memory;
  for (int p = 0; p < kMemoryParts; ++p) {
    auto part = static_cast<MemoryPart>(p);
    memory.emplace_back(name_of(part), device.peak_bytes(part));
  }
  memory.emplace_back("total", device.bytes_held());
  memory.emplace_back("peak", device.peak_bytes());
  std::vector<std::string> timing_texts = process_.all_gather(timing_rows(process_.rank(), timer_));
  std::vector<std::string> memory_texts = process_.all_gather(memory_rows(process_.rank(), memory));
  double peak[] = {static_cast<double>(device.peak_bytes())};
  process_.all_reduce_max(peak);
  std::optional<double> used = energy_->joules();
  double joules[] = {used.value_or(0)};
  process_.all_reduce_sum(joules);
  bool counted = process_.all_agree(used.has_value()) && energy_->tokens() > 0;
  if (!process_.is_root()) return;
  write_timing_table(path("timing.csv"), timing_texts);
  write_memory_table(path("memory.csv"), memory_texts);

  BenchmarkRow row;
  row.time_utc = utc_now();
  row.run = folder_name(o_.output);
  row.host = process_.host();
  row.device = device.name();
  row.version = report_.build.version;
  row.command = "train";
  row.precision = name_of(o_.precision);
  row.strategy = name_of(o_.strategy);
  row.mode = outcome.adapter_rank == 0 ? "full" : "lora";
  row.adapter_rank = outcome.adapter_rank;
  row.model = folder_name(o_.model);
  row.data = folder_name(o_.data);
  row.ranks = report_.ranks;
  row.nodes = report_.nodes;
  row.pack_tokens = o_.pack_tokens;
  row.batch_packs = o_.batch_packs;
  row.steps = state.step;
  row.samples = state.samples;
  row.tokens = state.tokens;
  row.supervised_tokens = state.supervised_tokens;
  row.tokens_per_s = median(tokens_per_s_);
  // how many samples a step has differs more than its speed: a median of their own would be of other steps
  if (row.tokens_per_s && timed_tokens_ > 0)
    row.samples_per_s =
        *row.tokens_per_s * static_cast<double>(timed_samples_) / static_cast<double>(timed_tokens_);
  row.supervised_tokens_per_s = median(supervised_per_s_);
  row.step_time_median_s = median(step_seconds_);
  if (row.tokens_per_s) row.epoch_time_s = outcome.tokens_per_epoch / *row.tokens_per_s;
  row.training_time_s = state.seconds;
  row.peak_memory_bytes = static_cast<uint64_t>(peak[0]);
  row.mfu = median(mfus_);
  row.loss_first = state.first_loss;
  row.loss_last = state.last_loss;
  row.valid_loss = state.last_valid;
  row.config_hash = report_.config_hash;
  row.machine = machine_text(devices_, report_.nodes, report_.machine.cores);
  bool cuda = device.kind() == DeviceKind::cuda;
  row.versions = cuda ? versions_text(report_.build.cuda, nccl_version()) : versions_text("", "");
  row.adapter_alpha = outcome.adapter_rank == 0 ? 0 : outcome.adapter_alpha;
  if (outcome.data.kept > 0)
    row.sample_length_mean =
        static_cast<double>(outcome.data.tokens) / static_cast<double>(outcome.data.kept);
  row.max_length = max_length_of(outcome.data);
  if (row.samples_per_s && row.max_length)
    row.padded_tokens_per_s = *row.samples_per_s * static_cast<double>(*row.max_length);
  if (counted) row.joules_per_token = joules[0] / static_cast<double>(energy_->tokens());
  row.vocab_size = outcome.vocab_size;

  report_.finished = true;
  report_.results = {{"steps", state.step},
                     {"planned_steps", state.planned_steps},
                     {"early_stopped", outcome.early_stopped},
                     {"skipped_steps", state.skipped},
                     {"precision", row.precision},
                     {"strategy", row.strategy},
                     {"mode", row.mode},
                     {"samples", state.samples},
                     {"tokens", state.tokens},
                     {"supervised_tokens", state.supervised_tokens},
                     {"tokens_per_s", row.tokens_per_s.value_or(kNotMeasured)},
                     {"supervised_tokens_per_s", row.supervised_tokens_per_s.value_or(kNotMeasured)},
                     {"step_time_median_s", row.step_time_median_s.value_or(kNotMeasured)},
                     {"training_time_s", state.seconds},
                     {"peak_memory_bytes", static_cast<int64_t>(*row.peak_memory_bytes)},
                     {"joules_per_token", row.joules_per_token.value_or(kNotMeasured)},
                     {"machine", row.machine},
                     {"versions", row.versions},
                     {"loss_first", state.first_loss},
                     {"loss_last", state.last_loss}};
  if (state.first_valid) report_.results.emplace_back("valid_loss_first", *state.first_valid);
  if (state.last_valid) report_.results.emplace_back("valid_loss_last", *state.last_valid);
  write_run_report(path("run.json"), report_);
  if (!o_.results.empty()) append_benchmark(o_.results, row);
}

}  // namespace llmft
