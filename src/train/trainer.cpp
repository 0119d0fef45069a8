#include "llmft/train/trainer.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

#include <unistd.h>

#include "batches.hpp"
#include "interrupt.hpp"
#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/progress.hpp"
#include "llmft/base/text.hpp"
#include "llmft/comm/gpu_choice.hpp"
#include "llmft/data/shard_set.hpp"
#include "llmft/model/llama.hpp"
#include "llmft/model/model_folder.hpp"
#include "llmft/ops/backend.hpp"
#include "llmft/report/machine.hpp"
#include "llmft/tokenizer/tokenizer.hpp"
#include "llmft/train/checkpoint.hpp"
#include "llmft/train/memory_plan.hpp"
#include "rank_state.hpp"
#include "run_folder.hpp"
#include "run_settings.hpp"
#include "step_profile.hpp"
#include "watchdog.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

HostBatch view_of(const Pack& pack) {
  return {pack.tokens, pack.positions, pack.cu_seqlens, pack.loss_rows, pack.targets};
}

double sum_squared_lengths(const Pack& pack) {
  double total = 0;
  for (size_t i = 1; i < pack.cu_seqlens.size(); ++i)
    total += std::pow(pack.cu_seqlens[i] - pack.cu_seqlens[i - 1], 2);
  return total;
}

// Shards of another tokenizer train without an error and yield nonsense: compare with the model's own, where
// it has one.
ShardExpectation expectation_of(const TrainOptions& o, const LlamaConfig& config) {
  ShardExpectation expected{"", "", static_cast<uint64_t>(config.vocab_size)};
  if (fs::exists(fs::path(o.model) / "tokenizer.json") || fs::exists(fs::path(o.model) / "tokenizer.model")) {
    auto tokenizer = load_tokenizer(o.model);
    Manifest manifest = read_manifest(o.data);
    // the same vocabulary exists as two files of different form; only like forms can be compared
    if (manifest.tokenizer.kind == tokenizer->kind()) {
      expected.tokenizer_kind = tokenizer->kind();
      expected.tokenizer_hash = tokenizer->file_hash();
    }
  }
  return expected;
}

int thread_count(const TrainOptions& o, const Process& process) {
  if (o.deterministic) return 1;  // OpenBLAS sums in another order for another number of threads
  if (o.threads > 0) return static_cast<int>(o.threads);
  // the launcher may have bound this rank to some cores already: then those, else a share of the node
  int64_t share = ::sysconf(_SC_NPROCESSORS_ONLN) / process.local_size();
  return static_cast<int>(std::clamp<int64_t>(share, 1, machine_info().usable_cores));
}

// Left to itself a run uses GPUs where any rank has one; gpu_of_rank then says which rank has none.
bool use_cuda(const TrainOptions& o, const Process& process) {
  if (o.device != DeviceChoice::automatic) return o.device == DeviceChoice::cuda;
  return !process.all_agree(cuda_device_count() == 0);
}

std::unique_ptr<Device> make_device(const TrainOptions& o, const Process& process) {
  if (!use_cuda(o, process)) return make_cpu_device();
  return make_cuda_device(gpu_of_rank(process));
}

std::unique_ptr<Ops> make_ops(const TrainOptions& o, const Recipe& recipe, Device& device,
                              const Process& process) {
  if (device.kind() == DeviceKind::cpu) return make_cpu_ops(device, recipe.matmul, thread_count(o, process));
  return make_cuda_ops(device, recipe.matmul, kernel_choice_of(o), {.file = gemm_choices_file()});
}

// Steps that the host is ahead of the device; 1 at most. A CPU has done a step when it has been given one.
int64_t steps_ahead(const Device& device) {
  const char* wanted =
      std::getenv("LLMFT_TEST_STEPS_AHEAD");  // tests without a GPU have its order of work so
  if (wanted != nullptr) return std::string_view(wanted) == "1" ? 1 : 0;
  return device.kind() == DeviceKind::cpu ? 0 : 1;
}

int group_of(const TrainOptions& o, const Process& process) {
  return o.strategy == Strategy::hsdp ? hsdp_group(process, o.hsdp_group) : 0;
}

// What this rank may use of its device now. CUDA's context and NCCL are there already.
PlanTarget target_of(const TrainOptions& o, const Device& device, const Process& process) {
  constexpr size_t kKernels = size_t{320} << 20;  // loaded when first used
  bool gpu = device.kind() == DeviceKind::cuda;
  return {device.kind(),
          device.name(),
          gpu ? device.free_memory() + device.bytes_held()
              : device.total_memory() / static_cast<size_t>(process.local_size()),
          gpu ? kKernels : 0,
          process.size(),
          group_of(o, process)};
}

// Refused before data and weights are read.
LlamaTensors tensors_that_fit(const TrainOptions& o, const LlamaConfig& config, const Device& device,
                              const Process& process) {
  LlamaTensors tensors(config, adapter_of(o), extension_multiple(device.kind()));
  require_fit(o, config, tensors.adapter(), target_of(o, device, process));
  return tensors;
}

// One training run on this rank. On a GPU the host is one step ahead of it: a step is begun before the one
// before is looked at, so that the GPU always has work. state_ is of the last step looked at; before anything
// that uses the parameters, all begun steps are.
class Trainer {
 public:
  Trainer(const Process& process, const TrainOptions& options, const std::string& config_yaml)
      : process_(process),
        o_(options),
        recipe_(make_recipe(options.precision)),
        device_(make_device(options, process)),
        ops_(make_ops(options, recipe_, *device_, process)),
        comm_(make_comm(process, *device_)),
        config_(load_llama_config(options.model)),
        tensors_(tensors_that_fit(options, config_, *device_, process)),
        shards_(options.data, expectation_of(options, config_)),
        loader_(shards_, {options.pack_tokens, static_cast<uint64_t>(options.seed), LoadOrder::shuffled}),
        batches_(loader_, options.batch_packs, pack_cost(tensors_),
                 options.deterministic ? PackOrder::by_cost : PackOrder::balanced, process.rank(),
                 process.size()),
        folder_(process, options, config_yaml) {
    {
      auto timed = folder_.phase("load");
      if (options.profile) profile_.emplace(options, tensors_, *device_, ops_, comm_);
      rank_ = make_rank_state(options, tensors_, recipe_, *ops_, *comm_, group_of(options, process));
      load_model(options.model, tensors_, recipe_, static_cast<uint64_t>(options.seed), *rank_.store);
      if (!options.adapter_init.empty()) load_adapter(options.adapter_init, tensors_, *rank_.store);
    }
    for (Step& step : steps_) {
      step.outcome = HostBuffer(*device_, rank_.outcome.bytes());
      for (auto* mark : {&step.begin, &step.backward_end, &step.reduce_end, &step.end})
        *mark = device_->make_mark();
    }
    last_end_ = device_->make_mark();
    peaks_ = peaks_of(options, *device_);
    open_validation();
    plan_steps();
  }

  TrainEnd run();

 private:
  void open_validation();
  void plan_steps();
  std::string settings() const;
  void start_step();
  void complete_step();
  double validate();
  bool validate_and_judge(StepRow* row);
  void show(Progress& progress) const;
  void save();
  void end_of_run(bool early);
  std::string last_checkpoint_text() const;
  std::string device_text() const;
  [[noreturn]] void stop_on_bad_loss(const std::vector<PackPosition>& step, std::span<const double> losses);

  bool resume_from_checkpoint();
  static bool is_due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }
  bool patience_is_over() const { return o_.patience > 0 && state_.bad_validations >= o_.patience; }

  const Process& process_;
  const TrainOptions& o_;
  InterruptWatch watch_;  // from before the model is read: a signal then ends the run after its first step
  Recipe recipe_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Comm> comm_;
  LlamaConfig config_;
  LlamaTensors tensors_;
  ShardSet shards_;
  Loader loader_;
  Batches batches_;
  RunFolder folder_;
  std::optional<Watchdog> watchdog_;
  double busy_ = 0;             // seconds of this rank's own work in all steps
  double exposed_seconds_ = 0;  // when busy_ was last added to
  std::optional<StepProfile> profile_;
  std::optional<LedgerPeaks> peaks_;
  RankState rank_;
  std::unique_ptr<ShardSet> valid_shards_;
  std::unique_ptr<Loader> valid_loader_;
  Schedule schedule_;
  TrainState state_;
  // Steps begun and not yet looked at.
  struct Step {
    std::vector<PackPosition> packs;
    PackPosition next;
    int64_t scored = 0;
    double lr = 0, data_wait = 0, tokens = 0, samples = 0, flops = 0;
    std::unique_ptr<Mark> begin, backward_end, reduce_end, end;
    HostBuffer outcome;    // loss of each micro-batch, UpdateState
    bool follows = false;  // begun while the device had the step before
  };
  Pack take_pack(const Step& step, int64_t micro_step);
  std::array<Step, 2> steps_;
  int64_t started_ = 0;
  int64_t first_step_ = 0;          // steps done before this start of the run
  PackPosition cursor_;             // of the next step to begin
  std::unique_ptr<Mark> last_end_;  // of the last step looked at
  StepRow row_;                     // of the step just done
  bool interrupted_ = false;
  int64_t last_checkpoint_ = -1;
  Stopwatch session_;
  double seconds_before_ = 0;
};

void Trainer::open_validation() {
  fs::path valid = fs::path(o_.data) / "valid";
  if (!fs::exists(valid / "manifest.json")) return;
  valid_shards_ =
      std::make_unique<ShardSet>(valid, ShardExpectation{"", "", static_cast<uint64_t>(config_.vocab_size)});
  if (valid_shards_->size() == 0) return;
  valid_loader_ =
      std::make_unique<Loader>(*valid_shards_, LoaderOptions{o_.pack_tokens, 0, LoadOrder::sequential});
}

void Trainer::plan_steps() {
  auto per_epoch = static_cast<double>(loader_.packs_in_epoch(0));
  schedule_.total_steps =
      o_.steps > 0 ? o_.steps
                   : std::max<int64_t>(1, static_cast<int64_t>(std::ceil(
                                              o_.epochs * per_epoch / static_cast<double>(o_.batch_packs))));
  schedule_.kind = o_.schedule;
  schedule_.peak = o_.lr;
  schedule_.min_ratio = o_.min_lr_ratio;
  schedule_.warmup_steps =
      o_.warmup_steps > 0
          ? o_.warmup_steps
          : static_cast<int64_t>(std::ceil(o_.warmup_ratio * static_cast<double>(schedule_.total_steps)));
}

std::string Trainer::settings() const {
  std::string model = process_.is_root() ? model_fingerprint(o_.model) : "";
  return run_settings(o_, tensors_.adapter(), process_.broadcast(model), shards_.manifest().fingerprint);
}

std::string Trainer::device_text() const {
  if (device_->kind() == DeviceKind::cpu) return "CPU";
  size_t gpu = static_cast<size_t>(gpu_of_rank(process_));
  std::vector<GpuInfo> gpus = list_gpus();
  return fmt::format("GPU {} at {}", gpu, gpu < gpus.size() ? gpus[gpu].bus_id : "?");
}

std::string Trainer::last_checkpoint_text() const {
  if (last_checkpoint_ < 0) return "no checkpoint was written before";
  return fmt::format("last checkpoint: step {} in {}", last_checkpoint_,
                     (fs::path(o_.output) / "checkpoints").string());
}

// The advice to take a precision with a larger range or more digits, where there is one.
const char* wider_precision(Precision precision) {
  if (precision == Precision::fp32 || precision == Precision::tf32) return "";
  return precision == Precision::fp16 ? ", use --precision bf16 or fp32" : ", use --precision fp32";
}

void Trainer::stop_on_bad_loss(const std::vector<PackPosition>& step, std::span<const double> losses) {
  for (size_t i = 0; i < losses.size(); ++i) {
    if (std::isfinite(losses[i])) continue;
    Pack pack = loader_.pack(step[i].epoch, step[i].index);
    std::string rows = fmt::format(
        "{}",
        fmt::join(pack.rows.begin(),
                  pack.rows.begin() + static_cast<int64_t>(std::min<size_t>(8, pack.rows.size())), ", "));
    user_error(
        "step {}: the loss is {} (rank {}, source rows {}{}); lower train.lr{}, or look at these rows; {}",
        state_.step + 1, number(losses[i]), i % static_cast<size_t>(process_.size()), rows,
        pack.rows.size() > 8 ? ", ..." : "", wider_precision(o_.precision), last_checkpoint_text());
  }
  internal_error("stop_on_bad_loss without a bad loss");
}

// Gives the device a whole step. Nothing here waits for a GPU: complete_step() reads what came of it.
void Trainer::start_step() {
  Step& s = steps_[static_cast<size_t>(started_) % steps_.size()];
  s.follows = started_ > state_.step;
  s.packs = batches_.take(cursor_);
  s.next = cursor_;
  s.scored = batches_.loss_tokens(s.packs);
  if (s.scored == 0)
    user_error("step {}: none of its samples has a supervised token; check how the data was preprocessed",
               started_ + 1);
  s.data_wait = s.tokens = s.samples = s.flops = 0;
  s.lr = schedule_.at(started_);
  auto scale = static_cast<float>(1 / static_cast<double>(s.scored));
  int64_t micro_steps = batches_.micro_steps();
  Tensor outcome = rank_.outcome.view(DType::f64, 1, micro_steps + kUpdateFields);
  TraceRange range("step", started_ + 1);
  if (profile_) profile_->step_begins(started_ - first_step_);
  s.begin->record();
  rank_.store->zero_gradients(micro_steps);
  for (int64_t j = 0; j < micro_steps; ++j) {
    Stopwatch wait;
    Pack pack = take_pack(s, j);
    s.data_wait += wait.seconds();
    if (profile_) profile_->batch_begins(static_cast<double>(pack.tokens.size()), sum_squared_lengths(pack));
    rank_.llama->forward_backward(view_of(pack), scale, rank_.optimizer->loss_scale(),
                                  outcome.col_range(j, 1));
    s.tokens += static_cast<double>(pack.tokens.size());
    s.samples += static_cast<double>(pack.rows.size());
    s.flops += training_flops(tensors_, static_cast<double>(pack.tokens.size()),
                              static_cast<double>(pack.loss_rows.size()), sum_squared_lengths(pack));
  }
  s.backward_end->record();
  rank_.store->finish_gradients();
  rank_.optimizer->judge_gradients();
  s.reduce_end->record();
  rank_.optimizer->step(s.lr);
  Tensor state = rank_.optimizer->state();
  device_->copy(outcome.col_range(micro_steps, kUpdateFields).data, state.data, state.bytes());
  device_->copy_to_host(s.outcome.data(), outcome.data, outcome.bytes());
  s.end->record();
  ++started_;
  bool other_work = is_due(o_.validate_every, started_) || is_due(o_.checkpoint_every, started_);
  if (profile_) profile_->step_ends(!other_work);
}

Pack Trainer::take_pack(const Step& s, int64_t micro_step) {
  TraceRange range("data");
  ProfileScope waiting(device_->profile(), "data wait");
  return batches_.pack(s.packs, micro_step, cursor_);
}

// Waits for the oldest step begun and takes it into the books.
void Trainer::complete_step() {
  Step& s = steps_[static_cast<size_t>(state_.step) % steps_.size()];
  s.end->wait();
  // By the device's clock: the host may look late. What lies between two steps counts where nothing but the
  // next step was given to the device.
  double seconds = s.end->seconds_since(s.follows ? *last_end_ : *s.begin);
  double exposed = comm_->exposed().seconds;
  busy_ += std::max(0.0, seconds - (exposed - exposed_seconds_));
  exposed_seconds_ = exposed;
  if (watchdog_) watchdog_->progress(state_.step + 2, busy_);
  folder_.add_phase("data_wait", s.data_wait);
  folder_.add_phase("forward_backward", s.backward_end->seconds_since(*s.begin));
  folder_.add_phase("reduce", s.reduce_end->seconds_since(*s.backward_end));
  folder_.add_phase("optimizer", s.end->seconds_since(*s.reduce_end));
  std::swap(s.end, last_end_);

  auto packs = static_cast<size_t>(o_.batch_packs), ranks = static_cast<size_t>(process_.size());
  auto micro_steps = static_cast<size_t>(batches_.micro_steps());
  const auto* outcome = static_cast<const double*>(s.outcome.data());
  UpdateState update;
  std::memcpy(static_cast<void*>(&update), outcome + micro_steps, sizeof update);

  enum { kTokens, kSamples, kFlops, kInterrupt, kCounters };
  std::vector<double> shared(packs + kCounters);
  for (size_t j = 0; j < micro_steps; ++j)
    shared[j * ranks + static_cast<size_t>(process_.rank())] = outcome[j];
  shared[packs + kTokens] = s.tokens;
  shared[packs + kSamples] = s.samples;
  shared[packs + kFlops] = s.flops;
  shared[packs + kInterrupt] = InterruptWatch::requested() ? 1 : 0;
  // each loss is set on one rank and zero on the others, so the sum is exact and its order fixed
  process_.all_reduce_sum(std::span(shared));

  double loss = 0;
  for (size_t i = 0; i < packs; ++i) loss += shared[i];
  loss /= static_cast<double>(s.scored);
  if (!std::isfinite(loss)) stop_on_bad_loss(s.packs, std::span(shared).first(packs));
  interrupted_ = interrupted_ || shared[packs + kInterrupt] > 0;

  bool applied = update.apply != 0;
  double scale_used = state_.update.loss_scale;
  if (!applied && scale_used <= 1)  // no loss scale, or one that cannot be lowered
    user_error(
        "step {}: the gradient norm is {} (the loss, {}, is finite); lower train.lr or use --precision {}; "
        "{}",
        state_.step + 1, number(update.norm), number(loss), recipe_.loss_scaling ? "bf16" : "fp32",
        last_checkpoint_text());
  if (!applied) {
    log::info("step {}: gradient overflow, update skipped, loss scale {} -> {}", state_.step + 1,
              number(scale_used), number(update.loss_scale));
    ++state_.skipped;
  }

  if (state_.step == 0) state_.first_loss = loss;
  state_.last_loss = loss;
  ++state_.step;
  state_.update = update;
  state_.epoch = s.next.epoch;
  state_.pack = s.next.index;
  auto tokens = static_cast<int64_t>(shared[packs + kTokens]);
  auto samples = static_cast<int64_t>(shared[packs + kSamples]);
  state_.tokens += tokens;
  state_.supervised_tokens += s.scored;
  state_.samples += samples;

  row_ = {};
  row_.step = state_.step;
  PackPosition last = *std::max_element(s.packs.begin(), s.packs.end(), [](const auto& a, const auto& b) {
    return std::pair(a.epoch, a.index) < std::pair(b.epoch, b.index);
  });
  row_.epoch = static_cast<double>(last.epoch) +
               static_cast<double>(last.index + 1) / static_cast<double>(loader_.packs_in_epoch(last.epoch));
  row_.loss = loss;
  row_.lr = s.lr;
  row_.grad_norm = update.norm;
  row_.tokens = tokens;
  row_.supervised_tokens = s.scored;
  row_.tokens_per_s = static_cast<double>(tokens) / seconds;
  row_.supervised_tokens_per_s = static_cast<double>(s.scored) / seconds;
  row_.step_time_s = seconds;
  row_.data_wait_s = s.data_wait;
  row_.imbalance = batches_.imbalance(s.packs);
  if (recipe_.loss_scaling) row_.loss_scale = scale_used;
  row_.skipped = !applied;
  if (peaks_ && peaks_->tflops > 0)
    row_.mfu = shared[packs + kFlops] / seconds / (peaks_->tflops * 1e12 * process_.size());
  folder_.count_step(row_, samples);
}

double Trainer::validate() {
  folder_.leave_steps();
  auto timed = folder_.phase("validation");
  uint64_t packs = valid_loader_->packs_in_epoch(0);
  if (o_.validate_packs > 0) packs = std::min(packs, static_cast<uint64_t>(o_.validate_packs));
  std::vector<double> losses(packs);
  double scored = 0;
  auto ranks = static_cast<uint64_t>(process_.size());
  // every rank makes the same number of forward passes: a sharded model gathers its weights together
  for (uint64_t first = 0; first < packs; first += ranks) {
    uint64_t mine = first + static_cast<uint64_t>(process_.rank());
    Pack pack = valid_loader_->pack(0, std::min(mine, packs - 1));
    double loss = rank_.llama->loss(view_of(pack));
    if (mine < packs) losses[mine] = loss;
  }
  for (uint64_t i = 0; i < packs; ++i) scored += static_cast<double>(valid_loader_->loss_tokens(0, i));
  process_.all_reduce_sum(std::span(losses));
  double total = 0;
  for (double loss : losses) total += loss;
  return total / scored;
}

// False: no better loss for too long, stop.
bool Trainer::validate_and_judge(StepRow* row) {
  if (!valid_loader_) return true;
  double loss = validate();
  if (row != nullptr) row->valid_loss = loss;
  if (!state_.first_valid) state_.first_valid = loss;
  state_.last_valid = loss;
  log::info("step {}: validation loss {:.4f}", state_.step, loss);
  if (!state_.best_valid || loss < *state_.best_valid) {
    state_.best_valid = loss;
    state_.bad_validations = 0;
  } else {
    ++state_.bad_validations;
  }
  return !patience_is_over();
}

void Trainer::save() {
  if (last_checkpoint_ == state_.step || o_.measure_only) return;
  folder_.leave_steps();
  auto timed = folder_.phase("checkpoint");
  // the next step's loss would show it, but too late for this checkpoint
  if (!std::isfinite(rank_.optimizer->parameter_norm()))
    user_error(
        "step {}: its update made weights that are not finite (gradient norm {}, learning rate {}); lower "
        "train.lr or set train.clip; {}",
        state_.step, number(state_.update.norm), number(row_.lr), last_checkpoint_text());
  state_.seconds = seconds_before_ + session_.seconds();
  save_checkpoint(o_.output, state_, *rank_.store, *rank_.optimizer, process_, o_.checkpoint_keep);
  last_checkpoint_ = state_.step;
}

void Trainer::end_of_run(bool early) {
  folder_.leave_steps();
  if (profile_) profile_->report(o_.output, process_.is_root());
  save();
  if (o_.measure_only) state_.seconds = seconds_before_ + session_.seconds();  // else as saved
  fs::path output = o_.output;
  if (!o_.measure_only) {
    rank_.llama.reset();  // gathering whole weights may take the room of its activations
    device_->set_phase(DevicePhase::making);
    auto timed = folder_.phase("export");
    if (tensors_.full_fine_tuning())
      save_model(output / "model", o_.model, tensors_,
                 recipe_.compute == DType::f32 ? DType::f32 : DType::bf16, *rank_.store, process_.is_root());
    else
      save_adapter(output / "adapter", tensors_, o_.model, *rank_.store, process_.is_root());
  }
  process_.barrier();
  Comm::Exposed exposed = comm_->exposed();
  folder_.add_phase("exposed_communication", exposed.seconds, exposed.waits);
  folder_.finish(state_, *device_,
                 {tensors_.adapter().rank, tensors_.adapter().alpha, config_.vocab_size, shards_.manifest(),
                  static_cast<double>(loader_.tokens_in_epoch()), early});
}

bool Trainer::resume_from_checkpoint() {
  auto found =
      load_checkpoint(o_.output, state_.layout, state_.settings, *rank_.store, *rank_.optimizer, process_);
  if (!found) {
    if (folder_.finished_before())
      user_error(
          "{}: is a finished run whose checkpoints are gone; give another --output, or --overwrite to "
          "delete it",
          o_.output);
    log::info("no checkpoint in {}: starting at step 0", o_.output);
    return false;
  }
  state_ = *found;
  last_checkpoint_ = state_.step;
  seconds_before_ = state_.seconds;
  log::info("resuming after step {} of {}", state_.step, schedule_.total_steps);
  if (state_.planned_steps != schedule_.total_steps)
    log::info("the run was planned for {} steps: from here on the learning rate is that of a run of {}",
              state_.planned_steps, schedule_.total_steps);
  return true;
}

void Trainer::show(Progress& progress) const {
  progress.update(static_cast<uint64_t>(state_.step),
                  fmt::format("step {}  loss {:.4f}  {} tok/s ({} supervised)  {}{}", state_.step, row_.loss,
                              human_count(row_.tokens_per_s), human_count(row_.supervised_tokens_per_s),
                              human_bytes(static_cast<double>(device_->peak_bytes())),
                              row_.mfu ? fmt::format("  MFU {:.1f}%", *row_.mfu * 100) : ""));
}

TrainEnd Trainer::run() {
  state_.layout = tensors_.layout_hash();
  state_.settings = settings();
  state_.update = rank_.optimizer->read_state();
  bool resumed = o_.resume && resume_from_checkpoint();
  state_.planned_steps = schedule_.total_steps;
  bool go_on = state_.step < schedule_.total_steps && !(resumed && patience_is_over());
  if (resumed && !go_on && folder_.finished_before()) {
    log::info("nothing left to do after step {}; give more --steps to go on", state_.step);
    return TrainEnd::already_finished;
  }
  folder_.start(*device_);
  if (process_.size() > 1 && o_.watchdog > 0)
    watchdog_.emplace(process_, fs::path(o_.output) / "heartbeat", o_.watchdog, device_text());
  folder_.open_steps(state_.step);
  log::info("{} parameters trained of {}, {} steps of {} packs x {} tokens on {} rank{}, {} {}",
            human_count(static_cast<double>(tensors_.trainable_count())),
            human_count(static_cast<double>(config_.parameter_count())), schedule_.total_steps,
            o_.batch_packs, o_.pack_tokens, process_.size(), process_.size() == 1 ? "" : "s",
            name_of(o_.strategy), name_of(o_.precision));
  if (go_on) {
    if (device_->kind() == DeviceKind::cuda) {
      auto timed = folder_.phase("rehearsal");
      rehearse(rank_, o_, *device_, process_.size());
    }
    if (!resumed) validate_and_judge(nullptr);
    Progress progress("train", static_cast<uint64_t>(schedule_.total_steps));
    int64_t ahead = steps_ahead(*device_);
    started_ = first_step_ = state_.step;
    cursor_ = {state_.epoch, state_.pack};
    while (go_on && !interrupted_ && state_.step < schedule_.total_steps) {
      start_step();
      bool last = started_ == schedule_.total_steps;
      bool validates = last || is_due(o_.validate_every, started_),
           saves = is_due(o_.checkpoint_every, started_);
      // before the parameters are used the pipeline runs empty, and when it was asked to stop
      auto keep_in_flight = [&] { return validates || saves || interrupted_ ? 0 : ahead; };
      while (started_ - state_.step > keep_in_flight()) {
        complete_step();
        device_->set_phase(DevicePhase::sealed);  // a CPU's rehearsal would take as long as a step
        if (validates && state_.step == started_) go_on = validate_and_judge(&row_);
        folder_.write_step(row_);
        show(progress);
      }
      if (saves && !last && !interrupted_) save();
    }
    progress.finish(fmt::format("step {}  loss {:.4f}", state_.step, row_.loss));
  }
  bool early = !go_on && state_.step < schedule_.total_steps;
  if (interrupted_ && state_.step < schedule_.total_steps) {
    save();
    folder_.leave_requeue_mark(state_.step);
    log::info("stopped by a signal after step {}; {}", state_.step,
              o_.measure_only ? "--measure-only writes no checkpoint, started again it begins anew"
                              : "checkpoint written, go on with --resume");
    return TrainEnd::interrupted;
  }
  if (early) log::info("stopped early: no better validation loss {} times in a row", state_.bad_validations);
  end_of_run(early);
  return early ? TrainEnd::early_stopped : TrainEnd::finished;
}

}  // namespace

TrainEnd run_training(const Process& process, const TrainOptions& options, const std::string& config_yaml) {
  validate(options, process.size());
  check_strategy(options.strategy, reduction_of(options), process.size());
  group_of(options, process);
  Trainer trainer(process, options, config_yaml);
  return trainer.run();
}

}  // namespace llmft
