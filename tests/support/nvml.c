/* A stand-in for NVIDIA's management library: the calls that hybrid makes, with the signatures of nvml.h.

   The file that HYBRID_TEST_NVML names has a line for each GPU: UUID, utilization (%), power (mW), bytes used, bytes of
   memory. A number below zero is what the GPU does not support. It is read again at every call. Without the file the
   driver is not loaded. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int nvmlReturn_t;
typedef struct gpu { char uuid[80]; long long busy, power, used, total; } *nvmlDevice_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, MOST = 8 };

static struct gpu gpus[MOST];
static unsigned int count;

static nvmlReturn_t look(void) {
    const char *path = getenv("HYBRID_TEST_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return DRIVER_NOT_LOADED;
    for (count = 0; count < MOST; count++) {
        struct gpu *one = &gpus[count];
        if (fscanf(file, "%79s %lld %lld %lld %lld", one->uuid, &one->busy, &one->power, &one->used, &one->total) != 5)
            break;
    }
    fclose(file);
    return SUCCESS;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) { (void)flags; return look(); }

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *found) {
    nvmlReturn_t done = look();
    *found = count;
    return done;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (index >= count) return INVALID_ARGUMENT;
    *device = &gpus[index];
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    snprintf(uuid, length, "%s", device->uuid);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *found) {
    nvmlReturn_t done = look();
    if (done) return done;
    found->gpu = (unsigned int)device->busy;
    found->memory = 0;
    return device->busy < 0 ? NOT_SUPPORTED : SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) {
    nvmlReturn_t done = look();
    if (done) return done;
    *milliwatts = (unsigned int)device->power;
    return device->power < 0 ? NOT_SUPPORTED : SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *found) {
    nvmlReturn_t done = look();
    if (done) return done;
    found->total = (unsigned long long)device->total;
    found->used = (unsigned long long)device->used;
    found->free = found->total - found->used;
    return device->total < 0 ? NOT_SUPPORTED : SUCCESS;
}

nvmlReturn_t nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(nvmlReturn_t error) {
    return error == DRIVER_NOT_LOADED ? "Driver Not Loaded" : error == NOT_SUPPORTED ? "Not Supported" : "error";
}
