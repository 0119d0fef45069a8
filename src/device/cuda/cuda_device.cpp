#include "llmft/device/cuda_device.hpp"

#include "llmft/base/text.hpp"

namespace llmft {
namespace {

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

// The number of GPUs; UserError says why there is none.
int count_or_explain() {
  int count = 0, driver = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  if (status == cudaErrorInsufficientDriver && driver != 0 && driver < CUDART_VERSION)
    user_error(
        "--device cuda: the NVIDIA driver is too old (it supports CUDA {}, this llmft was built with CUDA "
        "{}); "
        "update the driver, build with an older CUDA Toolkit, or use --device cpu",
        version_text(driver), version_text(CUDART_VERSION));
  if (driver == 0)
    user_error(
        "--device cuda: no NVIDIA driver on this machine; run on a GPU node (in a container: pass the GPUs "
        "in), "
        "or use --device cpu");
  user_error(
      "--device cuda: no GPU is visible ({}); ask the scheduler for one (--gres=gpu:1), look at "
      "CUDA_VISIBLE_DEVICES, or use --device cpu",
      cudaGetErrorString(status == cudaSuccess ? cudaErrorNoDevice : status));
}

class CudaMark final : public Mark {
 public:
  explicit CudaMark(cudaStream_t stream) : stream_(stream) { cuda_check(cudaEventCreate(&event_)); }
  ~CudaMark() override { cudaEventDestroy(event_); }
  CudaMark(const CudaMark&) = delete;
  CudaMark& operator=(const CudaMark&) = delete;

  void record() override { cuda_check(cudaEventRecord(event_, stream_)); }
  void wait() override { cuda_check(cudaEventSynchronize(event_)); }
  double seconds_since(const Mark& earlier) const override {
    float milliseconds = 0;
    cuda_check(cudaEventElapsedTime(&milliseconds, dynamic_cast<const CudaMark&>(earlier).event_, event_));
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t event_ = nullptr;
};

}  // namespace

void cuda_check(cudaError_t status, const char* file, int line) {
  switch (status) {
    case cudaSuccess:
      return;
    case cudaErrorMemoryAllocation:
      user_error(
          "GPU: out of memory (CUDA and its libraries need some beside the planned buffers); lower "
          "--pack-tokens, or see "
          "with nvidia-smi who else uses the GPU");
    case cudaErrorDevicesUnavailable:
      user_error(
          "GPU: another process holds it exclusively ({}); start one rank per GPU, or ask for a free one",
          cudaGetErrorString(status));
    case cudaErrorNoKernelImageForDevice:
      user_error(
          "GPU: this llmft has no code for it; build with -DCMAKE_CUDA_ARCHITECTURES set to its compute "
          "capability");
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorNvlinkUncorrectable:
      user_error("GPU: the hardware failed ({}); leave this node out (sbatch --exclude) and resume",
                 cudaGetErrorString(status));
    case cudaErrorIllegalInstruction:
    case cudaErrorLaunchFailure:
      internal_error(
          fmt::format("CUDA: {}: a kernel met an index outside its table (a token, position or row "
                      "number), or is wrong",
                      cudaGetErrorString(status)),
          file, line);
    default:
      internal_error(fmt::format("CUDA: {} ({})", cudaGetErrorString(status), cudaGetErrorName(status)), file,
                     line);
  }
}

CudaDevice::CudaDevice(int ordinal) : ordinal_(ordinal) {
  int count = count_or_explain();
  if (ordinal < 0 || ordinal >= count)
    user_error(
        "--device cuda: GPU {} was asked for, {} visible on this node; start at most as many ranks on a node "
        "as "
        "it has GPUs (--ntasks-per-node), or look at CUDA_VISIBLE_DEVICES",
        ordinal, count);
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, ordinal));
  name_ = properties.name;
  total_memory_ = properties.totalGlobalMem;
  multiprocessors_ = properties.multiProcessorCount;
  require_supported({name_, total_memory_, properties.major, properties.minor, "", ""});
  cuda_check(cudaSetDevice(ordinal));
  cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

CudaDevice::~CudaDevice() {
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

void CudaDevice::copy_to_device_raw(void* device, const void* host, size_t bytes) {
  if (bytes != 0) cuda_check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_));
}

void CudaDevice::copy_to_host_raw(void* host, const void* device, size_t bytes) {
  if (bytes != 0) cuda_check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_));
}

void CudaDevice::copy_raw(void* to, const void* from, size_t bytes) {
  if (bytes != 0) cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
}

void CudaDevice::zero_raw(void* data, size_t bytes) {
  if (bytes != 0) cuda_check(cudaMemsetAsync(data, 0, bytes, stream_));
}

void CudaDevice::synchronize() {
  cuda_check(cudaStreamSynchronize(stream_));
}

std::unique_ptr<Mark> CudaDevice::make_mark() {
  return std::make_unique<CudaMark>(stream_);
}

size_t CudaDevice::free_memory() const {
  size_t available = 0, total = 0;
  cuda_check(cudaMemGetInfo(&available, &total));
  return available;
}

void* CudaDevice::allocate_raw(size_t bytes) {
  void* data = nullptr;
  cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the next launch would report it again
    return nullptr;
  }
  cuda_check(status);
  return data;
}

// Called from destructors: a failure here was reported, or will be, where it happened.
void CudaDevice::release_raw(void* data) {
  cudaFree(data);
}

void* CudaDevice::allocate_host(size_t bytes) {
  void* data = nullptr;
  cuda_check(cudaMallocHost(&data, bytes));
  return data;
}

void CudaDevice::release_host(void* data) {
  cudaFreeHost(data);
}

}  // namespace llmft
